"""Classes that are deployed, or served, and known elsewhere by their names."""
# mypy: disable-error-code="call-arg, attr-defined, arg-type"

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stoker
from stoker.client import session as sessions
from tests.faults.running import PersistentServer
from tests.waiting import wait_until

app = stoker.App("named")


@app.cls(max_workers=1)
class Greeter:
    word: str = stoker.parameter(default="hello")
    times: int = stoker.parameter(default=1)

    @stoker.enter(snapshot=True)
    def load(self) -> None:
        self.text = " ".join([self.word] * self.times)

    @stoker.method()
    def greet(self, name: str) -> str:
        return f"{self.text}, {name}"

    @stoker.method()
    def letters(self, name: str) -> Iterator[str]:
        yield from name

    @stoker.method()
    def priority(self) -> str:
        return os.environ.get("MARK", "")


@app.cls(min_workers=1)
class Needy:
    """It has no pool before somebody says what it needs."""

    need: str = stoker.parameter()

    @stoker.method()
    def say(self) -> str:
        return self.need


@app.function()
def plain(x: int) -> int:
    return x


@pytest.fixture
def server(own_home: Path, runtime_dir: Path) -> Iterator[PersistentServer]:
    found = PersistentServer()
    answer = found.start()
    assert "error" not in answer, answer
    yield found
    sessions.close()
    found.stop()


def test_a_class_is_found_by_its_name(server: PersistentServer) -> None:
    assert app.deploy() == 1
    greeter = stoker.Cls.from_name("named", "Greeter")
    assert greeter().greet.remote("you") == "hello, you"
    assert greeter(word="hi", times=2).greet.remote("you") == "hi hi, you"
    assert list(greeter(word="hi").greet.map(["a", "b"])) == ["hi, a", "hi, b"]
    assert list(greeter().letters.stream("abc")) == ["a", "b", "c"]
    assert greeter(word="hi").greet.spawn("you").result(30) == "hi, you"
    assert greeter.with_options(env={"MARK": "x"})(word="hi").priority.remote() == "x"
    assert stoker.Cls.from_name("named", "Needy")(need="rest").say.remote() == "rest"
    _what_is_refused(greeter)
    _what_is_there()
    assert app.deploy() == 1  # nothing has changed
    app.undeploy()


def _what_is_refused(greeter: stoker.Cls[object]) -> None:
    with pytest.raises(stoker.InvalidOption, match=r"named\.Greeter has no parameter 'words'\. Did you mean 'word'\?"):
        greeter(words="hi").greet.remote("you")
    with pytest.raises(stoker.InvalidOption, match=r"named\.Greeter: times='2' is a str, and this parameter is a int"):
        greeter(times="2").greet.remote("you")
    with pytest.raises(stoker.InvalidOption, match=r"named\.Needy must be given 'need': write Needy\(need=…\)"):
        stoker.Cls.from_name("named", "Needy")().say.remote()
    with pytest.raises(stoker.InvalidRequest, match=r"named\.Greeter has no method 'great'.* Did you mean 'greet'\?"):
        greeter().great.remote("you")
    with pytest.raises(stoker.InvalidRequest, match=r"greet\.remote\(…\)|use greet\.stream|letters\.stream"):
        greeter().letters.remote("you")
    with pytest.raises(stoker.InvalidRequest, match=r"Greeter is a class, not a function: use stoker\.Cls\.from_name"):
        stoker.Function.from_name("named", "Greeter").remote("you")
    with pytest.raises(stoker.InvalidRequest, match=r"plain is a function, not a class: use stoker\.Function\.from"):
        stoker.Cls.from_name("named", "plain")().greet.remote("you")
    with pytest.raises(stoker.NotFound, match=r"It has: Greeter, Needy, plain"):
        stoker.Cls.from_name("named", "Nobody")().greet.remote("you")


def _what_is_there() -> None:
    session = sessions.current()
    rows = session.request("functions", {"app": "named"})
    found = [row["parameters"] for row in rows if row["name"] == "Greeter"]
    assert {"word": "hi", "times": 2} in found
    assert [row["parameters"] for row in rows if row["name"] == "Needy"] == [{"need": "rest"}]
    assert "named.Greeter.greet" in {row["function"] for row in session.request("calls", {"app": "named"})}


class Noted:
    place: str = stoker.parameter()

    @stoker.exit()
    def end(self) -> None:
        with Path(self.place, "notes").open("a") as file:
            file.write(f"{os.getpid()}\n")

    @stoker.method()
    def who(self) -> int:
        return os.getpid()


def test_exit_hooks_run_for_a_redeployment_and_when_the_server_stops(server: PersistentServer, tmp_path: Path) -> None:
    def noted() -> list[int]:
        path = tmp_path / "notes"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def deploy(number: int) -> None:
        anew = stoker.App("anew")
        anew.cls(tags={"number": str(number)})(Noted)
        assert anew.deploy() == number

    deploy(1)
    held = stoker.Cls.from_name("anew", "Noted")(place=str(tmp_path))
    first = held.who.remote()
    deploy(2)
    wait_until(lambda: noted() == [first], timeout=20, message="the exit hook of the first version ran")
    second = stoker.Cls.from_name("anew", "Noted")(place=str(tmp_path)).who.remote()
    third = held.who.remote()
    server.stop()
    assert noted()[0] == first
    assert set(noted()) == {first, second, third}
    server.start()  # this program's session takes its leave of it; it would wait for one that is away


def test_what_others_still_use_stays_when_a_program_ends(server: PersistentServer) -> None:
    app.deploy()
    session = sessions.current()
    assert stoker.Cls.from_name("named", "Needy")(need="rest").say.remote() == "rest"
    other = sessions.Session(sessions.find_endpoint())
    spec = other.request("lookup", {"app": "named", "name": "Needy"})["spec"]
    spec["parameters"] = {"need": "rest"}
    other.request("register", {"app": "named", "run_id": "", "functions": [spec]})
    other.close()
    assert stoker.Cls.from_name("named", "Needy")(need="rest").say.remote() == "rest"
    wait_until(lambda: _workers(session, "Needy") == 1, timeout=10, message="its worker stays")
    app.undeploy()


def _workers(session: sessions.Session, name: str) -> int:
    rows = session.request("functions", {"app": "named"})
    return sum(row["workers"] for row in rows if row["name"] == name)


def test_a_method_of_a_class_by_name_is_one_of_an_instance() -> None:
    found: Any = stoker.Cls.from_name("shop", "Model")
    with pytest.raises(AttributeError, match=r"write stoker.Cls.from_name\('shop', 'Model'\)\(…\).score.remote\(…\)"):
        found.score.remote(1)

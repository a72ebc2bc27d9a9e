"""Programs that use a server over TCP, in real processes: everything works there, and a connection may break."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stoker
from stoker.client import session as sessions
from stoker.client.endpoints import SavedConnection, local_endpoint, save_connection
from stoker.client.session import Session
from tests.faults.running import PersistentServer
from tests.waiting import wait_until

app = stoker.App("over-tcp")


@app.function()
def square(x: int) -> int:
    return x * x


@app.function()
def nested(x: int) -> int:
    return square.remote(x) + 1


@app.function()
def count(n: int) -> Iterator[Any]:
    for i in range(n):
        yield i, bytes(300_000 if i % 50 == 7 else 10)


@app.function()
def add_one(values: Any) -> Any:
    print(f"adding to {len(values)}")
    return values + 1


class Door:
    """A persistent server with a door to the network, and how to use it from this process."""

    def __init__(self, server: PersistentServer) -> None:
        self.server = server
        status = ask_here("status")
        self.facts = next(door for door in status["doors"] if door["kind"] == "tcp")
        self.port = int(self.facts["address"].rpartition(":")[2])
        self.token = ask_here("token_create", name="tests")["token"]

    def environment(self, *, port: int = 0, token: str = "") -> dict[str, str]:
        """Return the variables with which programs use it."""
        return {
            "STOKER_SERVER": f"stoker://127.0.0.1:{port or self.port}",
            "STOKER_TOKEN": token or self.token,
            "STOKER_FINGERPRINT": self.facts["fingerprint"],
        }


def ask_here(verb: str, **params: Any) -> Any:
    endpoint = local_endpoint()
    assert endpoint is not None
    session = Session(endpoint)
    try:
        return session.request(verb, params, timeout=30)
    finally:
        session.close()


@pytest.fixture(params=["127.0.0.1:0", "0.0.0.0:0"], ids=["plain", "tls"])
def listen(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def door(own_home: Path, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, listen: str) -> Iterator[Door]:
    """Start a server that listens there; this process uses it over TCP."""
    monkeypatch.setenv("STOKER_LISTEN", listen)
    server = PersistentServer()
    answer = server.start()
    assert "error" not in answer, answer
    monkeypatch.delenv("STOKER_LISTEN")
    sessions.close()
    found = Door(server)
    use(monkeypatch, found.environment())
    yield found
    sessions.close()
    server.stop()


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


class Relay:
    """Stands between programs and a server, and cuts connections."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self.accepted = 0
        self.bytes = 0
        self._closed = False
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection, with whatever is on its way."""
        while self._open:
            sock = self._open.pop()
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # its other end was quicker

    def _accept(self) -> None:
        while not self._closed:
            try:
                one, _ = self._listener.accept()
                other = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                continue
            self.accepted += 1
            self._open += [one, other]
            for source, target in ((one, other), (other, one)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
                self.bytes += len(data)
        except OSError:
            pass  # it was cut
        finally:
            for sock in (source, target):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it was cut
            source.close()


class Cutter:
    """Cuts at random moments, as bytes go by."""

    def __init__(self, relay: Relay, *, after: tuple[int, int]) -> None:
        self._relay = relay
        self._after = after
        self._stop = threading.Event()
        self._random = random.Random(int(os.environ.get("STOKER_CHAOS_SEED", "7")))
        self.cuts = 0
        self._thread = threading.Thread(target=self._run, name="cutter", daemon=True)

    def __enter__(self) -> Cutter:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        mark = self._relay.bytes + self._random.randint(*self._after)
        while not self._stop.wait(0.002):
            if self._relay.bytes >= mark:
                self._relay.cut()
                self.cuts += 1
                mark = self._relay.bytes + self._random.randint(*self._after)


def segments_left(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.is_file()]


def segments_of(door: Door) -> Callable[[], list[Path]]:
    """Return what lists the payloads in the server's shared memory."""
    import hashlib

    name = hashlib.sha256(str((Path(os.environ["STOKER_RUNTIME_DIR"]) / "server").resolve()).encode()).hexdigest()[:8]
    return lambda: segments_left(Path(f"/dev/shm/stoker-{os.getuid()}-server-{name}"))


def test_every_way_to_call(door: Door) -> None:
    with app.run():
        assert square.remote(4) == 16
        assert nested.remote(4) == 17
        assert list(square.map(range(3000))) == [x * x for x in range(3000)]
        assert [i for i, _ in count.stream(200)] == list(range(200))
        assert square.spawn(5).result(30) == 25
        assert stoker.gather(*square.spawn_map(range(20))) == [x * x for x in range(20)]
        values = np.arange(500_000.0)
        assert all((add_one.remote(values + i) == values + i + 1).all() for i in range(3))
        with pytest.raises(TypeError):
            nested.remote(None)  # type: ignore[arg-type]
    sessions.close()
    wait_until(lambda: not segments_of(door)(), message="no payload is left")


@pytest.mark.slow
def test_two_hundred_megabytes_in_and_out(door: Door, capfd: pytest.CaptureFixture[str]) -> None:
    values = np.arange(25_000_000)
    with app.run():
        found = add_one.remote(values)
        assert found.nbytes == 200_000_000
        assert (found == values + 1).all()
        assert found.flags.writeable
        call = add_one.spawn(values)
        assert (call.result(60) == found).all()
    sessions.close()
    assert "adding to 25000000" in capfd.readouterr().out
    wait_until(lambda: not segments_of(door)(), message="no payload is left")


@pytest.mark.parametrize("listen", ["127.0.0.1:0"])
def test_deployed_apps_and_the_command_line(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "served.py"
    program.write_text(
        "import stoker\n"
        'app = stoker.App("served")\n'
        "@app.function()\n"
        "def double(x: int) -> int:\n"
        '    print("doubling", x)\n'
        "    return 2 * x\n"
    )
    assert "served" in stoker_program("deploy", str(program))
    double: Any = stoker.Function.from_name("served", "double")
    assert double.remote(4) == 8
    call = double.spawn(5)
    assert call.result(30) == 10
    assert stoker.Call.from_id(call.id).result(30) == 10
    sessions.close()
    assert "served" in stoker_program("apps", "list", "--json")
    assert call.id in stoker_program("calls", "list", "--json")
    assert call.id in stoker_program("calls", "show", call.id)
    assert "doubling 4" in stoker_program("logs", "--app", "served")
    assert "double" in stoker_program("functions", "list")
    assert "double" in stoker_program("workers", "list")
    assert "[]" in stoker_program("images", "list", "--json")
    assert stoker_program("run", f"{program}::double", "--x", "21").splitlines()[-1] == "42"
    assert door.facts["address"] in stoker_program("server", "status")
    assert "Programs go there" in stoker_program("doctor", status=None)
    stoker_program("apps", "stop", "served")


def stoker_program(*arguments: str, status: int | None = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "stoker.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert status is None or done.returncode == status, done.stderr
    return done.stdout


@pytest.mark.chaos
def test_a_map_over_a_connection_that_breaks(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    with Relay(door.port) as relay:
        use(monkeypatch, door.environment(port=relay.port))
        with app.run(), Cutter(relay, after=(300_000, 1_500_000)) as cutter:
            assert list(square.map(range(20_000))) == [x * x for x in range(20_000)]
            while cutter.cuts < 5:
                assert list(square.map(range(5_000))) == [x * x for x in range(5_000)]
        sessions.close()
    assert relay.accepted > 5


@pytest.mark.chaos
def test_big_arrays_over_a_connection_that_breaks(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [np.full(400_000, float(i)) for i in range(12)]  # 3 MB each
    with Relay(door.port) as relay:
        use(monkeypatch, door.environment(port=relay.port))
        with app.run(), Cutter(relay, after=(8 << 20, 40 << 20)) as cutter:
            found = list(add_one.map(arrays))
            assert [value[0] for value in found] == [float(i + 1) for i in range(12)]
            assert all((value == value[0]).all() and len(value) == 400_000 for value in found)
            calls = add_one.spawn_map(arrays)
            assert [call.result(60)[-1] for call in calls] == [float(i + 1) for i in range(12)]
        assert cutter.cuts
        sessions.close()
    wait_until(lambda: not segments_of(door)(), message="no payload is left")


@pytest.mark.chaos
@pytest.mark.parametrize("listen", ["127.0.0.1:0"])
def test_a_stream_over_a_connection_that_breaks(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    with Relay(door.port) as relay:
        use(monkeypatch, door.environment(port=relay.port))
        with app.run():
            seen = []
            for i, data in count.stream(400):
                seen.append((i, len(data)))
                if i % 100 == 60:
                    relay.cut()
            assert seen == [(i, 300_000 if i % 50 == 7 else 10) for i in range(400)]
        sessions.close()
    assert relay.accepted >= 4


@pytest.mark.parametrize("listen", ["127.0.0.1:0"])
def test_a_revoked_token_ends_what_waits(door: Door) -> None:
    with app.run():
        call = iter(count.stream(1_000_000))
        next(call)
        ask_here("token_revoke", name="tests")
        with pytest.raises(stoker.PermissionDenied, match=r"does not know the token.*revoked"):
            for _ in call:
                pass


def test_without_a_token_or_a_server_it_is_said(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_TOKEN", "")
    with pytest.raises(stoker.PermissionDenied, match=r"wants a token over TCP.*stoker tokens create"), app.run():
        pass
    monkeypatch.setenv("STOKER_SERVER", "stoker://127.0.0.1:1")
    with pytest.raises(stoker.ConnectionFailed, match=r"No server answers at stoker://127.0.0.1:1"), app.run():
        pass


def test_a_saved_connection_is_used(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    named = door.environment()
    for name in named:
        monkeypatch.delenv(name)
    path = save_connection(SavedConnection(named["STOKER_SERVER"], named["STOKER_TOKEN"], named["STOKER_FINGERPRINT"]))
    assert path.stat().st_mode & 0o777 == 0o600
    with app.run():
        assert square.remote(3) == 9
        session = sessions.current_if_open()
        assert session is not None
        assert session.endpoint.is_remote


def test_a_forked_child_uses_the_same_server(door: Door) -> None:
    with app.run():
        assert square.remote(3) == 9
        pid = os.fork()
        if not pid:
            os._exit(0 if sessions.current().request("status")["mode"] == "persistent" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert square.remote(4) == 16

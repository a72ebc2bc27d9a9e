"""Workers that go wrong are replaced, and no request fails by it: real ones, really stopped, killed and grown."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.running import Serving, serving
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

APP = """
import os, time
import stoker

app = stoker.App("clinic")
HERE = os.environ["STOKER_HOME"]

def is_there(name): return os.path.exists(os.path.join(HERE, name))

@app.cls(max_workers=1, min_workers=1)
class Checked:
    @stoker.healthy(every="200ms", timeout="300ms", failures=2)
    def ping(self):
        return not is_there(f"ill-{os.getpid()}")

    @stoker.endpoint(requires_token=False, method="GET")
    def pid(self, seconds: float = 0.0) -> int:
        time.sleep(seconds)
        return os.getpid()

@app.function(max_workers=1, recycle_memory="120MiB")
@stoker.endpoint(requires_token=False, method="GET")
def grows(mib: int = 0) -> int:
    kept.append(bytearray(os.urandom(1024) * 1024 * mib))
    return os.getpid()

kept: list[bytearray] = []

@app.function(max_workers=1, lost_retries=0)
@stoker.endpoint(requires_token=False, method="GET")
def deadly() -> str:
    if not is_there("harmless"):
        os._exit(3)
    return "fine"

@app.function(max_workers=1, recycle_after=20)
@stoker.endpoint(requires_token=False, method="GET")
def counted() -> int:
    return os.getpid()

@app.cls(max_workers=1)
class Broken:
    @stoker.enter()
    def load(self):
        if not is_there("mended"):
            raise OSError("the model is not there")

    @stoker.endpoint(requires_token=False, method="GET")
    def answer(self) -> str:
        return "fine"
"""


@pytest.fixture(scope="module")
def clinic() -> Iterator[Serving]:
    with serving() as found:
        found.deploy(APP, "clinic")
        yield found


def rows(served: Serving, what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(served.stoker(what, "list", "--json"))
    return found


def function(served: Serving, name: str) -> dict[str, Any]:
    return next(row for row in rows(served, "functions") if row["name"] == name)


def workers(served: Serving, name: str) -> dict[int, str]:
    return {row["pid"]: row["state"] for row in rows(served, "workers") if row["function"] == f"clinic.{name}"}


@contextmanager
def asked_all_the_time(served: Serving, path: str) -> Iterator[list[httpx.Response]]:
    """Have requests made, one after the other by each of three clients, as long as the block lasts."""
    answers: list[httpx.Response] = []
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=served.url, timeout=60) as client:
            while not over.is_set():
                answers.append(client.get(path))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def all_good(answers: list[httpx.Response]) -> set[int]:
    assert answers and {answer.status_code for answer in answers} == {200}, [a.text for a in answers if a.is_error][:3]
    return {answer.json() for answer in answers}


def test_a_worker_whose_check_fails_is_replaced(clinic: Serving) -> None:
    with asked_all_the_time(clinic, "/clinic/Checked/pid?seconds=0.05") as answers:
        wait_until(lambda: answers)
        first = answers[0].json()
        (Path(clinic.env["STOKER_HOME"]) / f"ill-{first}").touch()
        wait_until(lambda: answers[-1].json() != first)
        wait_until(lambda: first not in workers(clinic, "Checked"))
    assert len(all_good(answers)) >= 2  # on a busy machine a check may come late, and another one is replaced


def test_a_worker_that_is_stopped_in_a_request_is_replaced_and_the_request_answered(clinic: Serving) -> None:
    with asked_all_the_time(clinic, "/clinic/Checked/pid?seconds=0.05") as answers:
        wait_until(lambda: answers)
        first = answers[-1].json()
        os.kill(first, signal.SIGSTOP)
        wait_until(lambda: answers[-1].json() != first)
        wait_until(lambda: not Path(f"/proc/{first}").exists())
    assert len(all_good(answers)) >= 2


def test_a_worker_that_holds_too_much_is_replaced(clinic: Serving) -> None:
    with (
        asked_all_the_time(clinic, "/clinic/grows") as answers,
        httpx.Client(base_url=clinic.url, timeout=60) as client,
    ):
        wait_until(lambda: answers)
        first = client.get("/clinic/grows?mib=200").json()
        wait_until(lambda: answers[-1].json() != first, timeout=60)
        wait_until(lambda: first not in workers(clinic, "grows"))
    assert len(all_good(answers)) == 2


def test_a_worker_is_replaced_after_its_number_of_calls(clinic: Serving) -> None:
    with asked_all_the_time(clinic, "/clinic/counted") as answers:
        wait_until(lambda: len(answers) > 100, timeout=60)
    assert len(all_good(answers)) >= 5


def test_what_does_not_start_is_told_everywhere_and_works_once_it_is_mended(clinic: Serving) -> None:
    with httpx.Client(base_url=clinic.url, timeout=60) as client:
        answers = [client.get("/clinic/Broken/answer") for _ in range(8)]
        assert {answer.status_code for answer in answers} == {503}
        error = answers[-1].json()["error"]
        assert error["type"] == "StartupError" and "OSError: the model is not there" in error["message"]
        assert "Traceback" not in answers[0].text and int(answers[-1].headers["retry-after"]) >= 1
        told = function(clinic, "Broken")["trouble"]
        assert "did not start or stay, " in told and "OSError: the model is not there" in told
        for what in ("apps", "functions", "workers"):
            said = clinic.stoker(what, "list")
            assert "clinic.Broken: its last " in said and "stoker logs --app clinic --function Broken" in said
        (Path(clinic.env["STOKER_HOME"]) / "mended").touch()
        wait_until(lambda: client.get("/clinic/Broken/answer").status_code == 200, timeout=60)
        assert not function(clinic, "Broken")["trouble"]


def test_what_ends_its_workers_in_its_calls_backs_off_and_works_once_it_is_mended(clinic: Serving) -> None:
    with httpx.Client(base_url=clinic.url, timeout=60) as client:
        answers = [client.get("/clinic/deadly")]
        while answers[-1].status_code != 503:
            answers.append(client.get("/clinic/deadly"))
        assert len(answers) >= 3 and "WorkerLost" in answers[0].text
        error = answers[-1].json()["error"]
        assert "workers ended in their calls" in error["message"] and "exit status 3" in error["message"]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert "workers ended in their calls, " in function(clinic, "deadly")["trouble"]
        assert "clinic.deadly: its last " in clinic.stoker("functions", "list")
        (Path(clinic.env["STOKER_HOME"]) / "harmless").touch()
        wait_until(lambda: client.get("/clinic/deadly").status_code == 200, timeout=60)
        assert not function(clinic, "deadly")["trouble"]

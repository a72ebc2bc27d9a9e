from __future__ import annotations

import json

import pytest

from stoker.server.gateway.problems import problem_of
from stoker.types import ErrorInfo, Outcome


@pytest.mark.parametrize("kind", ["ImageBuildError", "InterpreterNotFound"])
def test_who_asks_over_http_learns_nothing_of_the_machine_and_is_not_asked_to_come_again(kind: str) -> None:
    message = "app.f: There is no Python 3.14 here. There are:\n  3.11.7 /home/me/python"
    problem = problem_of(Outcome.ERROR, ErrorInfo(kind, message, fields={"function": "app.f", "retry_after": 4.0}))
    said = json.loads(problem.body())["error"]
    assert (problem.status, said["type"], "retry-after" in problem.headers) == (500, kind, False)
    assert said["message"].startswith("app.f cannot be run") and "/home" not in said["message"]


def test_a_worker_that_does_not_start_may_the_next_time() -> None:
    told = ErrorInfo("StartupError", "app.f: its enter() hook load() raised OSError: no\nTraceback", fields={})
    problem = problem_of(Outcome.ERROR, told)
    assert (problem.status, problem.headers["retry-after"]) == (503, "1")
    assert str(problem) == "app.f: its enter() hook load() raised OSError: no"

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stoker.server.callback_messages import message_of
from stoker.server.gateway.problems import problem_of
from stoker.server.payloads import PayloadFiles
from stoker.store.base import AcceptedRow, CallRecord, SettledRow
from stoker.types import CallState, ErrorInfo, Outcome


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


@pytest.mark.parametrize(
    ("kind", "status", "message", "told"),
    [
        ("WorkerLost", 500, "It ended.\nIts last output:\n  a secret", "It ended."),
        ("stoker.errors.WorkerLost", 500, "It ended.\nIts last output:\n  a secret", "It ended."),
        ("StartupError", 503, "f: it ended (3). Its output until then:\na secret", "f: it ended (3)."),
        ("stoker.errors.StartupError", 500, "f: it is late. It was here:\n  File", "f: it is late."),
        ("StokerError", 500, "There is no room. The details:\n/home/me", "There is no room."),
        (
            "builtins.ValueError",
            500,
            "a text\nof the user's own:\n  all of it",
            "a text\nof the user's own:\n  all of it",
        ),
    ],
)
def test_of_an_error_of_stoker_s_own_the_first_line_is_told_and_of_the_user_s_all(
    kind: str, status: int, message: str, told: str
) -> None:
    problem = problem_of(Outcome.ERROR, ErrorInfo(kind, message))
    assert (problem.status, str(problem)) == (status, told)


@pytest.mark.parametrize("kind", ["StoreError", "StoreUnavailable", "stoker.errors.StoreError"])
def test_where_the_store_is_stays_in_the_server_s_log(kind: str) -> None:
    problem = problem_of(Outcome.ERROR, ErrorInfo(kind, "postgresql://db.corp:5432/stoker does not answer"))
    assert "corp" not in str(problem) and "Its log says why" in str(problem)


def test_a_callback_says_no_more_than_the_answer_that_is_fetched(tmp_path: Path) -> None:
    error = ErrorInfo("WorkerLost", "It ended.\nIts last output:\n  a secret")
    settled = SettledRow(1, "h-1", CallState.FAILED, 2.0, 1, error=error)
    record = CallRecord(AcceptedRow(1, "h-1", "key", "web", 0, 1.0), 0, 1, settled)
    said = json.loads(message_of(record, None, PayloadFiles(tmp_path / "segments", tmp_path / "spill")))
    assert (said["type"], said["data"]["error"]) == ("call.failed", {"type": "WorkerLost", "message": "It ended."})

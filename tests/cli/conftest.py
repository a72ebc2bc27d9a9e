from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from stoker.cli import server_requests
from stoker.cli.program import run_program


class FakeSession:
    """Answers the requests of commands from a dict, and keeps what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"functions": []}  # below a list of workers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def request(self, verb: str, params: dict[str, Any], *, timeout: float | None = None) -> Any:
        self.asked.append((verb, params))
        answer = self.answers[verb]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """Stand in for the persistent server."""
    session = FakeSession()
    monkeypatch.setattr(server_requests, "persistent_session", lambda: session)
    return session


class Outcome:
    """What one command printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Outcome]


@pytest.fixture
def stoker_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process, on a screen of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        status = run_program(arguments)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run

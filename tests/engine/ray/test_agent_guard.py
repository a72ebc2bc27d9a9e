"""The guard of an agent: what it leaves, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.engine.ray import agent_guard
from stoker.errors import StokerError
from tests.engine.ray.conftest import STAND_IN
from tests.engine.ray.recorder import is_gone
from tests.waiting import wait_until


class Guarded:
    """A guard with a stand-in below it, and the ends of the pipes that an actor would hold."""

    def __init__(self, home: Path, *, behaviour: str = "", seconds: float = 20.0) -> None:
        self._note = home / "nodes" / "me-abcdefabcdef" / "note.json"
        stdin, self._stdin = os.pipe()
        self._result, result = os.pipe()
        command = [sys.executable, "-m", "stoker.engine.ray.agent_guard", str(result), str(seconds), "me", "abcdef" * 9]
        command += ["--server", f"stoker://h:1{behaviour}", "--node", "n", "--mode", "persistent", "--grace", "1"]
        environment = {**os.environ, "STOKER_HOME": str(home), agent_guard.PROGRAM_VARIABLE: str(STAND_IN)}
        subprocess.run(command, stdin=stdin, pass_fds=[result], env=environment, check=True, timeout=30)
        os.close(stdin)
        os.close(result)

    @property
    def pids(self) -> list[int]:
        """Return the pids of the stand-in and of the child that it has started."""
        wait_until(self._note.exists, timeout=20)
        note = json.loads(self._note.read_text())
        return [note["pid"], note["child"]]

    def close_stdin(self) -> None:
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def said(self) -> str:
        """Return what it says at its end, which this waits for."""
        with os.fdopen(os.dup(self._result), "rb") as pipe:
            reason: str = json.loads(pipe.read())["reason"]
        return reason

    def close(self) -> None:
        self.close_stdin()
        os.close(self._result)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"


def test_an_agent_ends_when_its_pipe_is_closed(home: Path) -> None:
    guarded = Guarded(home)
    pids = guarded.pids
    guarded.close_stdin()
    assert guarded.said() == "it ended: exit status 0"
    assert all(map(is_gone, pids))
    guarded.close()


def test_an_agent_that_does_not_end_is_killed_with_what_it_started(home: Path) -> None:
    guarded = Guarded(home, behaviour="/stubborn", seconds=0.3)
    pids = guarded.pids
    guarded.close_stdin()
    assert "killed by signal 9" in guarded.said()
    assert all(map(is_gone, pids))
    guarded.close()


def test_what_an_agent_leaves_behind_is_killed_also_where_nobody_listens(home: Path) -> None:
    guarded = Guarded(home)
    pids = guarded.pids
    guarded.close()
    wait_until(lambda: all(map(is_gone, pids)), timeout=20)


def test_an_agent_that_ends_by_itself_has_its_last_lines_told(home: Path) -> None:
    guarded = Guarded(home, behaviour="/brief")
    assert guarded.said() == "it ended: exit status 3. Its last lines:\nno server answers, and the grace is over"
    assert all(map(is_gone, guarded.pids))
    guarded.close()


def test_a_directory_too_deep_for_sockets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_RUNTIME_DIR", str(tmp_path / ("d" * 90)))
    with pytest.raises(StokerError, match="STOKER_RUNTIME_DIR"):
        agent_guard.run_dir_of("me", "abcdef" * 9)

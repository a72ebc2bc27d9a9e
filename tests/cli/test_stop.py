"""Stopping a server: what is found by its environment is waited for until it is gone, not only out of sight."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker import paths
from stoker.cli import server
from stoker.engine.local.processes import with_environment

from .conftest import Command

MARK = b"STOKER_TEST_STOP=held"


def test_what_exits_holds_its_locks_until_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that exits lets go of its memory first, its environment with it; much memory takes a while."""
    program = "import time; held = bytearray(300 << 20); print(flush=True); time.sleep(600)"
    environment = os.environ | dict([MARK.decode().split("=")])
    monkeypatch.setattr(server, "_agents", list)
    monkeypatch.setattr(server, "_started", lambda: with_environment({MARK}))
    monkeypatch.setattr(server, "POLL_SECONDS", 0.001)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline()
        server._end_rest(force=True)
        assert not server._lives(process.pid)


def test_what_a_killed_server_left_is_removed_unless_another_one_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stoker_command: Command
) -> None:
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STOKER_RUNTIME_DIR", str(tmp_path / "run"))
    place, lock = paths.server_runtime(), paths.server_home() / "server.lock"
    left = [place / "agent.ledger", place / "agent.lock", place / "server.sock"]
    for path in [*left, lock]:
        path.touch()
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        stoker_command("server", "stop")
        assert sorted(place.iterdir()) == left
    stoker_command("server", "stop")
    assert not [*place.iterdir()]

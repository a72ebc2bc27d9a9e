"""Stopping a server: what is found by its environment is waited for until it is gone, not only out of sight."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stoker.cli import server
from stoker.engine.local.processes import with_environment

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

"""Ending processes so that nothing of them is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.engine.local import processes

_HOLDS_A_SEMAPHORE = """
import multiprocessing, time
held = multiprocessing.get_context("spawn").Semaphore()
print(held._semlock.name, flush=True)
time.sleep(600)
"""


def test_what_killed_processes_hold_in_shared_memory_goes_with_them() -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLDS_A_SEMAPHORE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        semaphore = Path("/dev/shm") / f"sem.{process.stdout.readline().strip().lstrip('/')}"
        if not semaphore.exists():
            process.kill()
            pytest.skip("semaphores of this system are no files")
        below = processes.descendants([process.pid])
        assert len(below) == 1  # the tracker
        processes.kill_all(lambda: [process.pid, *below])
        assert not semaphore.exists()
        assert processes.start_time(below[0]) is None
    assert process.returncode == -9


def test_a_tracker_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TRACKER_SECONDS", 0.2)
    command = [sys.executable, "-c", "import time; time.sleep(600)", "multiprocessing.resource_tracker"]
    with subprocess.Popen(command) as process:
        processes.kill_all(lambda: [process.pid])
        assert process.wait(5) == -9


def test_what_is_found_by_its_environment_is_gone_and_not_only_out_of_sight() -> None:
    """A process that exits lets go of its memory first, its environment with it: much memory takes a while."""
    program = "import time; held = bytearray(300 << 20); print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", program]
    environment = os.environ | {"STOKER_TEST_MARK": "held"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline()
        processes.kill_all(lambda: processes.with_environment({b"STOKER_TEST_MARK=held"}))
        assert processes.start_time(process.pid) is None

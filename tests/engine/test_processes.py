"""Ending processes so that nothing of them is left."""

from __future__ import annotations

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

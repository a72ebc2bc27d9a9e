"""The machines of the tests themselves: they share nothing, a cable can be cut, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.machines.running import HOME, Machines, machines
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(60)


def reaches(made: Machines, one: str, other: str) -> bool:
    """Tell whether a machine's network answers another's, if only by a refusal."""
    try:
        with made[one].network(), socket.create_connection((made[other].address, 9), timeout=1.0):
            return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def test_they_share_a_network_and_nothing_else(shared: Path) -> None:
    with machines("m1", "m2", shared=[shared]) as made:
        for machine in made.machines:
            assert machine.run("hostname").stdout.strip() == machine.name
            processes = machine.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
            assert "first_process.py" in processes and "pytest" not in processes
            for place in ("/tmp", "/dev/shm", HOME):
                machine.run("touch", f"{place}/of-{machine.name}")
        assert made["m2"].run("sh", "-c", "ls /tmp /dev/shm $HOME").stdout.count("of-m") == 3
        made["m1"].run("touch", shared / "seen")
        assert (shared / "seen").exists()
        assert not Path("/tmp/of-m1").exists()
        assert made["m2"].run("stoker", "--version").stdout


def test_a_cable_is_cut_and_mended() -> None:
    with machines("m1", "m2") as made:
        assert reaches(made, "m1", "m2")
        made["m2"].cut()
        assert not reaches(made, "m1", "m2")
        made["m2"].mend()
        assert reaches(made, "m1", "m2")


@pytest.mark.parametrize("own_pids", [True, False])
def test_nothing_stays_when_the_tests_are_killed(own_pids: bool, tmp_path: Path) -> None:
    told = tmp_path / "pids"
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tests.machines.running import Machines\n"
        "from tests.machines.test_machines import sleepers\n"
        "from tests.waiting import wait_until\n"
        f"made = Machines('m1', 'm2', own_pids={own_pids})\n"
        "for machine in made.machines:\n"
        "    machine.start('setsid', 'sleep', '4711', output=Path('/dev/null'))\n"
        "wait_until(lambda: len(sleepers()) == 2)\n"
        f"Path({str(told)!r}).write_text(str(made._process.pid))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    before = networks()
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_until(lambda: not psutil.pid_exists(int(told.read_text())), message="the keeper is gone")
    wait_until(lambda: not sleepers(), message=f"what ran there is gone: {sleepers()}")
    assert networks() == before


def sleepers() -> list[int]:
    return [found.pid for found in psutil.process_iter() if command_of(found) == ["sleep", "4711"]]


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def networks() -> set[str]:
    """Return the interfaces of this machine: a cable whose machine is gone would be back here."""
    return set(os.listdir("/sys/class/net"))  # noqa: PTH208


def test_a_machine_is_switched_off() -> None:
    with machines("m1", "m2") as made:
        made["m1"].switch_off()
        assert not reaches(made, "m2", "m1")

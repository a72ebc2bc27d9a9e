"""However a program ends, nothing of it stays: no process, socket, run directory or shared memory."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests import leftovers
from tests.faults.running import Program, by_role
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(60)]

LONG_MAP = Path(__file__).parent / "programs" / "long_map.py"
MARGIN_SECONDS = 20.0  # the documented grace of ten seconds, on a busy machine


@pytest.fixture(autouse=True)
def nothing_new_in_shared_memory() -> object:
    before = leftovers.segments()
    yield
    # Waited for: one of a test beside this one has nobody while its server, killed, is started again.
    wait_until(
        lambda: not {name for name in leftovers.segments() - before if "-r-" in name and not _is_alive(name)},
        timeout=MARGIN_SECONDS,
        message="no run is gone whose segments are there",
    )


def _is_alive(segments: str) -> bool:
    run = segments.split("-", 2)[2].encode()
    return any(run in _bytes(path) for path in Path("/proc").glob("[0-9]*/cmdline"))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _wait_gone(runtime: Path, timeout: float) -> None:
    wait_until(lambda: not leftovers.of(runtime), timeout=timeout, message="everything of it is gone")


@pytest.mark.parametrize(("how", "status"), [("end", 0), ("raise", 1), ("exit", 5)])
def test_a_program_that_ends_by_itself(how: str, status: int, runtime_dir: Path) -> None:
    program = Program(LONG_MAP, how)
    assert program.wait(30) == status, program.output
    assert ("ValueError: in the main script" in program.output) == (how == "raise")
    _wait_gone(runtime_dir, 2)


def test_ctrl_c_ends_it_in_order(runtime_dir: Path) -> None:
    program = _begun(runtime_dir)
    program.process.send_signal(signal.SIGINT)
    assert program.wait(30) == -signal.SIGINT
    assert "KeyboardInterrupt" in program.output
    _wait_gone(runtime_dir, 2)


@pytest.mark.parametrize("apart", [0.0, 0.1, 1.0])
def test_ctrl_c_twice(apart: float, runtime_dir: Path) -> None:
    program = _begun(runtime_dir)
    program.process.send_signal(signal.SIGINT)
    try:
        program.process.wait(apart)
    except Exception:
        program.process.send_signal(signal.SIGINT)
    assert program.wait(30) != 0
    _wait_gone(runtime_dir, MARGIN_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_signal_that_ends_it_at_once(number: signal.Signals, runtime_dir: Path) -> None:
    program = _begun(runtime_dir)
    program.process.send_signal(number)
    assert program.wait(10) == -number
    _wait_gone(runtime_dir, MARGIN_SECONDS)


def test_a_signal_while_it_starts(runtime_dir: Path) -> None:
    for milliseconds in (50, 200, 350, 500, 700):
        program = Program(LONG_MAP)
        try:
            program.process.wait(milliseconds / 1000)
        except Exception:
            program.process.kill()
        program.process.wait()
    wait_until(lambda: not leftovers.processes_of(runtime_dir), timeout=MARGIN_SECONDS, message="no process is left")
    # A program killed before its server began to watch it leaves its directory to the next one.
    assert Program(LONG_MAP, "end").wait(30) == 0
    _wait_gone(runtime_dir, MARGIN_SECONDS)


def _begun(runtime: Path) -> Program:
    program = Program(LONG_MAP)
    wait_until(lambda: "got" in program.output, timeout=20, message="it has results")
    assert by_role(runtime)["worker"]
    return program


def test_a_script_that_runs_its_app_when_imported_is_told_and_leaves_nothing(runtime_dir: Path) -> None:
    program = Program(Path(__file__).parent / "programs" / "unguarded.py")
    assert program.wait(40) == 1
    assert "__main__" in program.output
    wait_until(lambda: not by_role(runtime_dir), timeout=20)

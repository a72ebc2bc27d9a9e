"""User code at its worst: the caller is told what happened, and everybody else goes on."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import stoker
from tests import leftovers
from tests.faults import badly
from tests.faults.running import Program, by_role
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

CANCEL_GRACE_SECONDS = 10.0
MINUTE_SECONDS = 60


@pytest.fixture(scope="module", autouse=True)
def holds_the_lock() -> Iterator[Program]:
    """Start a program whose function holds the interpreter lock for a minute: it does so beside the other tests."""
    place = Path(os.environ["STOKER_TEST_ROOT"]) / f"lock{os.getpid()}"
    script = Path(__file__).parent / "programs" / "holds_the_lock.py"
    program = Program(script, str(MINUTE_SECONDS), env={"STOKER_RUNTIME_DIR": str(place)})
    yield program
    if program.process.poll() is None:
        program.process.kill()  # the test that waits for it runs elsewhere
        program.process.wait()
    wait_until(lambda: not leftovers.processes_of(place), timeout=30, message="its server and workers end with it")
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(autouse=True)
def run() -> Iterator[None]:
    with badly.app.run(show_progress=False):
        yield
        assert badly.fine.remote(1) == 2


@pytest.mark.parametrize("how", ["ends", "exits", "returns", "raises"])
def test_a_function_may_fork_and_its_child_answers_for_nobody(how: str) -> None:
    assert [badly.forks.remote(how) >= 0 for _ in range(3)] == [True] * 3


def test_what_a_function_forks_into_the_background_ends_with_the_program(runtime_dir: Path) -> None:
    child = badly.forks.remote("goes on")
    assert child in leftovers.processes_of(runtime_dir)
    # The fixture after the test fails if it is still there.


def test_a_function_may_use_a_pool_of_processes() -> None:
    assert badly.multiprocesses.remote(5) == [5, 4, 3, 2, 1]


def test_an_exit_of_the_process_is_a_lost_worker_that_says_how() -> None:
    with pytest.raises(stoker.WorkerLost, match="exit status 3") as caught:
        badly.exits.remote(3)
    assert str(caught.value).endswith("Its last output:\n  leaving with 3")
    assert "stoker logs" not in str(caught.value)


def test_an_exit_with_status_zero_is_no_success() -> None:
    with pytest.raises(stoker.WorkerLost, match="exit status 0"):
        badly.exits.remote(0)


def test_a_crash_is_a_lost_worker_that_says_how() -> None:
    with pytest.raises(stoker.WorkerLost, match="signal 11") as caught:
        badly.crashes.remote()
    assert "in crashes" in str(caught.value) and "runner" not in str(caught.value)


def test_memory_has_a_limit_and_neighbours_are_unharmed() -> None:
    neighbour = badly.who.remote()
    with pytest.raises(stoker.OutOfMemory, match="200") as caught:
        badly.fills_memory.remote()
    assert isinstance(caught.value, MemoryError)
    assert badly.who.remote() == neighbour


@pytest.mark.parametrize("function", [badly.prints, badly.writes], ids=["print", "native"])
def test_a_gigabyte_of_output_is_bounded_on_disk_and_holds_nobody_up(
    function: stoker.Function[[int], int], runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    badly.fine.remote(0)
    with Path(os.devnull).open("w") as nowhere:
        monkeypatch.setattr("sys.stdout", nowhere)
        monkeypatch.setattr("sys.stderr", nowhere)
        call = function.spawn(1024)
        answered, disk, memory = 0, 0.0, 0.0
        while not call.done():
            answered += badly.fine.remote(1) == 2
            disk = max(disk, _bytes_below(runtime_dir))
            memory = max(memory, _resident(runtime_dir))
        assert call.result(timeout=60) == 1024
    monkeypatch.undo()
    assert answered
    assert disk < 900 << 20  # a busy machine's agent cuts what is too much later, but not at the end
    assert memory < 300 << 20
    wait_until(lambda: _bytes_below(runtime_dir) < 150 << 20, message="64 MiB are kept")


def _bytes_below(place: Path) -> float:
    total = 0
    for path in place.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue
    return total


def _resident(place: Path) -> float:
    """Return the memory of server and agent."""
    roles = by_role(place)
    total = 0
    for pid in roles.get("server", []) + roles.get("agent", []):
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        except OSError:
            continue
    return total


def test_code_that_ignores_its_cancellation_is_killed_after_the_grace(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    call = badly.ignores_cancellation.spawn(str(note))
    wait_until(lambda: note.exists() and note.read_text())
    pid = int(note.read_text())
    began = time.monotonic()
    call.cancel()
    with pytest.raises(stoker.CallCancelled):
        call.result(timeout=CANCEL_GRACE_SECONDS - 1)
    assert badly.fine.remote(1) == 2
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), timeout=CANCEL_GRACE_SECONDS + 20, message="it is killed")
    assert time.monotonic() - began > CANCEL_GRACE_SECONDS - 1


def test_a_forced_cancellation_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    call = badly.ignores_cancellation.spawn(str(note))
    wait_until(lambda: note.exists() and note.read_text())
    call.cancel(force=True)
    wait_until(lambda: not Path(f"/proc/{note.read_text()}").exists(), timeout=8, message="it is killed")


def test_closed_standard_files_harm_nothing() -> None:
    assert [badly.closes_its_files.remote(x) for x in range(3)] == [0, 1, 2]


def test_closing_every_file_loses_the_worker_and_no_more() -> None:
    with pytest.raises(stoker.WorkerLost):
        badly.closes_all_files.remote(1)


def test_threads_that_are_left_running_do_not_outlive_the_program() -> None:
    assert [badly.leaves_threads.remote(x) for x in range(3)] == [0, 1, 2]


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(stoker.SerializationError, match="inner") as caught:
        badly.returns_a_lock.remote()
    assert "lock" in str(caught.value)


def test_an_exception_of_an_odd_signature_arrives() -> None:
    with pytest.raises(Exception, match="odd 7: of this") as caught:
        badly.raises.remote("odd")
    assert isinstance(caught.value, badly.OddError | stoker.RemoteError)


def test_an_exception_without_text_arrives() -> None:
    with pytest.raises(stoker.RemoteError, match="HostileError"):
        badly.raises.remote("hostile")


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("exit", SystemExit),
        ("interrupt", KeyboardInterrupt),
        ("base", BaseException),
        ("generator", GeneratorExit),
        ("stop", StopIteration),
        ("recursion", RecursionError),
        ("chain", KeyError),
        ("group", ExceptionGroup),  # noqa: F821 - tests run on 3.11
    ],
)
def test_exceptions_that_mean_something_to_python_are_the_calls_error_only(
    what: str, kind: type[BaseException]
) -> None:
    before = badly.who.remote()
    with pytest.raises((kind, stoker.RemoteError)) as caught:
        badly.raises.remote(what)
    if not isinstance(caught.value, kind):
        assert kind.__name__ in str(caught.value)
    # A caller's program must not end, or stop, because a function said so.
    assert not isinstance(caught.value, (SystemExit, KeyboardInterrupt, GeneratorExit))
    assert badly.who.remote() == before


def test_a_function_that_spoils_its_process_spoils_no_other() -> None:
    assert [badly.spoils_the_process.remote(x) for x in range(3)] == [0, 1, 2]
    assert badly.prints_one.remote("heard") == "heard"


def test_threads_of_the_program_call_while_workers_die() -> None:
    failures: list[BaseException] = []

    def call(n: int) -> None:
        try:
            for x in range(2):  # more of them, one after the other, are a crash loop
                with pytest.raises(stoker.WorkerLost):
                    badly.exits.remote(n)
                assert badly.fine.remote(x) == x + 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_worker_that_holds_the_interpreter_lock_for_a_minute_is_not_declared_dead(holds_the_lock: Program) -> None:
    # The last one: its minute has gone by while the others ran.
    assert holds_the_lock.wait(MINUTE_SECONDS + 20) == 0, holds_the_lock.output
    assert holds_the_lock.output.splitlines() == [f"held it for {MINUTE_SECONDS} s", "began 1 time(s)"]

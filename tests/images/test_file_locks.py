from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from stoker.images.file_locks import build_lock, start_time, take_shared, try_exclusive


def test_shared_holders_keep_an_exclusive_one_out(tmp_path: Path) -> None:
    path = tmp_path / "guards" / "lock"
    first, second = take_shared(path), take_shared(path)
    os.close(first)
    assert try_exclusive(path) is None
    os.close(second)
    alone = try_exclusive(path)
    assert alone is not None
    os.close(alone)


def test_whoever_waited_for_a_removed_lock_takes_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    alone = try_exclusive(path)
    assert alone is not None
    taken: list[int] = []
    waiter = threading.Thread(target=lambda: taken.append(take_shared(path)))
    waiter.start()
    path.unlink()
    os.close(alone)
    waiter.join(10)
    assert os.fstat(taken[0]).st_ino == path.stat().st_ino
    os.close(taken[0])


def test_builders_take_turns_and_say_that_they_wait(tmp_path: Path) -> None:
    news: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        with build_lock(tmp_path / "lock", waiting=waiting.set):
            news.append("second")

    with build_lock(tmp_path / "lock", waiting=lambda: None):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        news.append("first")
    thread.join(10)
    assert news == ["first", "second"]


def test_start_times_tell_processes_apart() -> None:
    assert start_time(os.getpid()) == start_time(os.getpid()) != start_time(1)
    assert start_time(2**22 + 1) == ""


HOLDER = """
import subprocess, sys
from pathlib import Path
from stoker.images.file_locks import try_exclusive
fd = try_exclusive(Path(sys.argv[1]))
child = subprocess.Popen(["sleep", "600"], pass_fds=[fd], start_new_session=True, stdout=-3, stderr=-3)
print(child.pid, flush=True)
"""


def test_what_a_builder_left_before_it_noted_it_is_ended(tmp_path: Path) -> None:
    """It died between starting a program, which holds its lock, and writing down that it has."""
    path = tmp_path / "lock"
    path.write_text("")
    done = subprocess.run([sys.executable, "-c", HOLDER, str(path)], capture_output=True, text=True, check=True)
    orphan = int(done.stdout)
    assert start_time(orphan)
    with build_lock(path, waiting=lambda: None):
        assert start_time(orphan) == ""


def test_whoever_waits_and_a_holder_that_lives_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    fd = try_exclusive(path)
    assert fd is not None
    with subprocess.Popen(["sleep", "600"], pass_fds=[fd]) as child:
        waits = threading.Event()
        second = threading.Thread(target=_take_turn, args=(path, waits.set))
        second.start()
        assert waits.wait(10)
        assert start_time(child.pid)
        child.kill()
        os.close(fd)
        second.join(10)


def _take_turn(path: Path, waiting: Callable[[], None]) -> None:
    with build_lock(path, waiting=waiting):
        pass

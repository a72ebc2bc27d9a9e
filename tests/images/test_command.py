from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from stoker.images.command import MAX_OUTPUT_CHARS, Finished, run
from stoker.images.file_locks import build_lock


def _run(tmp_path: Path, command: str, on_line: Callable[[str], None] = lambda _: None) -> Finished:
    with build_lock(tmp_path / "lock", waiting=lambda: None) as lock:
        return run(["/bin/sh", "-c", command], cwd=tmp_path, env=os.environ, lock=lock, on_line=on_line)


def test_lines_are_streamed_and_both_streams_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    done = _run(tmp_path, "echo one; echo two >&2; printf 'thr\\303\\251e'; exit 3", lines.append)
    assert done == Finished(3, "one\ntwo\nthrée")
    assert lines == ["one", "two", "thrée"]


def test_a_daemon_that_left_its_session_does_not_hold_us(tmp_path: Path) -> None:
    daemon = f'{sys.executable} -c \'import os; os.setsid(); os.execvp("sleep", ["sleep", "20"])\''
    done = _run(tmp_path, f"({daemon} & echo $! > {tmp_path}/pid); echo done")
    try:
        assert done.output == "done\n"
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


def test_closed_output_does_not_end_the_wait(tmp_path: Path) -> None:
    assert _run(tmp_path, "exec >&- 2>&-; sleep 0.1; touch made").returncode == 0
    assert (tmp_path / "made").exists()


def test_only_the_end_of_a_flood_is_kept(tmp_path: Path) -> None:
    done = _run(tmp_path, "seq 1 200000; echo last")
    assert len(done.output) <= MAX_OUTPUT_CHARS
    assert done.output.endswith("200000\nlast\n")


def test_a_signal_shows_in_the_return_code(tmp_path: Path) -> None:
    assert _run(tmp_path, "kill -9 $$").returncode == -9

"""Running the programs of a build: output streamed line by line, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker.images.file_locks import BuildLock

MAX_OUTPUT_CHARS = 200_000  # of a program's output, what an error can carry; the end is what matters


@dataclass(frozen=True)
class Finished:
    """``output`` has both streams, in the order written."""

    returncode: int
    output: str


def run(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], lock: BuildLock, on_line: Callable[[str], None]
) -> Finished:
    """Run a program to its end, in a session of its own; what it left running in there is killed."""
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(lock.fd,),
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    lock.record(process.pid)
    lines: list[str] = []
    size = 0
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            size += len(line)
            while size > MAX_OUTPUT_CHARS and len(lines) > 1:
                size -= len(lines.pop(0))
            on_line(line.rstrip())
        process.wait()
    finally:
        _end_group(process)
    return Finished(process.returncode, "".join(lines))


def _end_group(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    if process.stdout is not None:
        process.stdout.close()
    process.wait()

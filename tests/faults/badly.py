"""Functions that behave as badly as users' do."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import stoker

app = stoker.App("badly")


@app.function
def fine(x: int) -> int:
    return x + 1


@app.function
def who() -> int:
    return os.getpid()


@app.function(lost_retries=0)
def forks(how: str) -> int:
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] if how != "goes on" else pid
    if how == "ends":
        os._exit(0)
    if how == "exits":
        sys.exit(0)
    if how == "returns":
        return -1
    if how == "raises":
        raise RuntimeError("in the child")
    os.setsid()
    time.sleep(600)
    os._exit(0)


@app.function
def multiprocesses(n: int) -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, range(-n, 0))


@app.function(lost_retries=0)
def exits(status: int) -> None:
    print(f"leaving with {status}")
    os._exit(status)


@app.function(lost_retries=0)
def crashes() -> None:
    ctypes.string_at(0)


@app.function(memory="200MiB")
def fills_memory() -> int:
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20)) * 8)


@app.function
def prints(megabytes: int) -> int:
    line = "x" * 1023 + "\n"
    for _ in range(megabytes):
        sys.stdout.write(line * 1024)
    return megabytes


@app.function
def writes(megabytes: int) -> int:
    """Native output: past Python's streams."""
    chunk = (b"y" * 1023 + b"\n") * 1024
    for _ in range(megabytes):
        os.write(1, chunk)
    return megabytes


@app.function
def ignores_cancellation(note: str) -> None:
    Path(note).write_text(str(os.getpid()))
    while True:
        try:
            while True:
                time.sleep(0.05)
        except BaseException:
            continue


@app.function
def closes_its_files(x: int) -> int:
    os.closerange(0, 3)
    return x


@app.function
def closes_all_files(x: int) -> int:
    os.closerange(0, 256)
    return x


@app.function
def prints_one(text: str) -> str:
    print(text, flush=True)
    return text


@app.function
def leaves_threads(x: int) -> int:
    for _ in range(3):
        threading.Thread(target=lambda: time.sleep(3600), daemon=False).start()
    return x


@app.function
def returns_a_lock() -> object:
    return {"inner": [threading.Lock()]}


class OddError(Exception):
    def __init__(self, code: int, *, because: str) -> None:
        super().__init__()
        self.code = code
        self.because = because

    def __str__(self) -> str:
        return f"odd {self.code}: {self.because}"


class HostileError(Exception):
    """Nothing about it can be shown or pickled."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __reduce__(self) -> str:
        raise RuntimeError("no pickle")


@app.function
def raises(what: str) -> None:
    if what == "odd":
        raise OddError(7, because="of this")
    if what == "hostile":
        raise HostileError
    if what == "exit":
        sys.exit(2)
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "base":
        raise BaseException("a bare one")
    if what == "generator":
        raise GeneratorExit
    if what == "stop":
        raise StopIteration(3)
    if what == "recursion":
        raises.local(what)
    if what == "chain":
        try:
            raise ValueError("inner")
        except ValueError as error:
            raise KeyError("outer") from error
    if what == "group":
        raise ExceptionGroup("several", [ValueError(1), TypeError(2)])  # noqa: F821 - tests run on 3.11


@app.function
def spoils_the_process(x: int) -> int:
    os.chdir("/")
    os.environ.clear()
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    sys.path.clear()
    sys.stdout = sys.stderr = None
    return x

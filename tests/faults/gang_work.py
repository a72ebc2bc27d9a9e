"""Functions that run as gangs, and go wrong in one of their ranks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import stoker

app = stoker.App("gang-work")
FOUR = stoker.Gang(size=4)
FOREVER_SECONDS = 600.0


@app.function(cpu=0.5, gang=FOUR)
def meets(x: int) -> tuple[int, stoker.GangInfo, dict[str, str]]:
    info = stoker.gang_info()
    names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TF_CONFIG")
    return x + info.rank, info, {name: os.environ[name] for name in names}


@app.function(cpu=0.5, gang=FOUR)
async def meets_async() -> int:
    return stoker.gang_info().size


def _naps() -> None:
    give_up = time.monotonic() + FOREVER_SECONDS
    while time.monotonic() < give_up:
        time.sleep(0.05)


@app.function(cpu=0.5, gang=FOUR)
def raises(rank: int) -> None:
    if stoker.gang_info().rank == rank:
        raise ValueError("this rank is bad")
    _naps()


@app.function(cpu=0.5, gang=FOUR)
def raises_and_hangs(rank: int) -> None:
    """Raise in one rank, and swallow what the others are told."""
    if stoker.gang_info().rank == rank:
        raise ValueError("this rank is bad")
    while True:
        try:
            _naps()
        except BaseException:
            pass


@app.function(cpu=0.5, gang=FOUR, lost_retries=0)
def dies(rank: int) -> None:
    if stoker.gang_info().rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    _naps()


@app.function(cpu=0.5, gang=FOUR)
def dies_once(rank: int, mark: str) -> int:
    info = stoker.gang_info()
    if info.rank == rank and info.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if info.attempt == 1:
        _naps()
    with Path(mark).open("a") as file:
        file.write(f"{info.rank}\n")
    return info.attempt


@app.function(cpu=0.5, gang=stoker.Gang(size=3), lost_retries=100)
def squares(x: int) -> int:
    time.sleep(0.01)
    return x * x


@app.function(cpu=0.5, gang=stoker.Gang(size=(1, 3)), lost_retries=100)
def squares_elastic(x: int) -> int:
    time.sleep(0.01)
    return x * x


@app.function(cpu=0.5, gang=FOUR, timeout=3)
def outlasts(rank: int) -> None:
    if stoker.gang_info().rank == rank:
        _naps()


@app.function(cpu=0.5, gang=FOUR)
def waits(began: str, gate: str) -> list[int]:
    """Say that each rank has begun, and return once a file is there."""
    info = stoker.gang_info()
    with Path(began).open("a") as file:
        file.write(f"{info.attempt}.{info.rank}.{os.getpid()}\n")
    give_up = time.monotonic() + FOREVER_SECONDS
    while not Path(gate).exists() and time.monotonic() < give_up:
        time.sleep(0.02)
    return [info.attempt, info.size]


@app.function(cpu=1, gang=stoker.Gang(size=3))
def three(x: int) -> int:
    time.sleep(0.05)
    return x


@app.function(cpu=1, gang=stoker.Gang(size=3))
def other_three(x: int) -> int:
    time.sleep(0.05)
    return -x


@app.function(cpu=0.5, gang=stoker.Gang(size=50))
def too_many() -> None:
    raise AssertionError("it never runs")


@app.function(cpu=0.5, gang=stoker.Gang(size=(2, 4)))
def goes_on(kills: int) -> list[int]:
    """Lose the highest rank in as many attempts."""
    info = stoker.gang_info()
    if info.attempt <= kills:
        if info.rank == info.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        _naps()
    return [info.attempt, info.size]

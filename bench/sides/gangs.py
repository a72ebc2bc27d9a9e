"""A function whose calls run in four workers, which say when they came to user code."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import stoker
from bench.processes import lives

app = stoker.App("gang-bench")
FOUR = stoker.Gang(size=4)


@app.function(cpu=0.25, gang=FOUR, idle_timeout=0.1)
def arrives(directory: str) -> int:
    return _arrive(Path(directory))


@app.function(cpu=0.25, gang=FOUR)
def arrives_warm(directory: str) -> int:
    return _arrive(Path(directory))


def _arrive(directory: Path) -> int:
    """Write down when this rank came here; return when all have."""
    rank = stoker.gang_info().rank
    half = directory / f"{rank}.part"
    half.write_text(f"{time.time()} {os.getpid()}")
    half.replace(directory / str(rank))
    while any(not (directory / str(other)).exists() for other in range(4)):
        time.sleep(0.001)
    return os.getpid()


def _turn(function: stoker.Function[[str], int], number: int) -> tuple[float, list[int]]:
    directory = Path(os.environ["BENCH_SCRATCH"]) / f"{function.name}{number}"
    directory.mkdir()
    began = time.time()
    function.remote(str(directory))
    told = [(directory / str(rank)).read_text().split() for rank in range(4)]
    return max(float(at) for at, _ in told) - began, [int(pid) for _, pid in told]


def _turns(function: stoker.Function[[str], int], *, anew: bool) -> Iterator[Callable[..., Any]]:
    with app.run(show_progress=False):
        count = 0
        _, pids = _turn(function, count)  # the first start imports

        def turn() -> dict[str, float]:
            nonlocal count, pids
            count += 1
            while anew and any(lives(pid) for pid in pids):
                time.sleep(0.02)
            took, found = _turn(function, count)
            if anew == bool(set(found) & set(pids)):
                raise AssertionError("not the start that was to be measured")
            pids = found
            return {"s": took}

        yield turn


def starting() -> Iterator[Callable[..., Any]]:
    return _turns(arrives, anew=True)


def warm() -> Iterator[Callable[..., Any]]:
    return _turns(arrives_warm, anew=False)

"""Functions for several nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

import stoker

app = stoker.App("nodes-work")
Array = npt.NDArray[np.float64]


def node() -> str:
    """Return the node that this runs on: the home of its agent is in its directory."""
    return Path(os.environ["STOKER_HOME"]).parent.name


@app.function(lost_retries=100)
def square(x: int) -> int:
    time.sleep(0.005)
    return x * x


@app.function(lost_retries=100)
def where(seconds: float) -> str:
    time.sleep(seconds)
    return node()


@app.function
def total(array: Array) -> float:
    return float(array.sum())


@app.function
def make(megabytes: int) -> Array:
    return np.arange(megabytes << 17, dtype=np.float64)


@app.function
def count(n: int) -> Iterator[int]:
    yield from range(n)


@app.function
def arrays(n: int) -> Iterator[Array]:
    for i in range(n):
        yield np.full(1 << 17, float(i))


@app.function
def fails(x: int) -> None:
    print("about to fail", x)
    raise ValueError(f"no {x}")


@app.function
def nested(n: int) -> list[int]:
    return list(square.map(range(n)))


@app.function(cpu=2)
def takes(made: stoker.Call[Array]) -> tuple[str, float]:
    return node(), float(made.result().sum())


@app.function(lost_retries=100)
def tells(began: str, gate: str) -> str:
    """Write this node and process down, and return the node once a file is there."""
    with Path(began).open("a") as file:
        file.write(f"{node()} {os.getpid()}\n")
    while not Path(gate).exists():
        time.sleep(0.01)
    return node()


@app.function(gang=stoker.Gang(size=4))
def ranks() -> list[str]:
    info = stoker.gang_info()
    return list(info.addresses)

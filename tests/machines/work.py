"""Functions whose runs are written down in a file that all machines share, and wait for another."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import stoker
from tests.nodes.work import node

app = stoker.App("machines-work")


def begin(place: str, what: str) -> None:
    with (Path(place) / what).open("a") as file:
        file.write(f"{node()}\n")


def wait_for_gate(place: str) -> None:
    while not (Path(place) / "gate").exists():
        time.sleep(0.01)


@app.function(lost_retries=100)
def tells(place: str) -> str:
    begin(place, "began")
    wait_for_gate(place)
    return node()


@app.function(lost_retries=100)
def ticks(place: str, count: int) -> Iterator[int]:
    begin(place, "began")
    yield 0
    wait_for_gate(place)
    yield from range(1, count)


@app.function(gang=stoker.Gang(size=4), lost_retries=100)
def ranks(place: str) -> int:
    begin(place, "began")
    with (Path(place) / f"ranks-{node()}").open("a") as file:
        file.write(f"{os.getpid()}\n")
    wait_for_gate(place)
    return stoker.gang_info().size


@app.function(lost_retries=100)
def where(seconds: float) -> str:
    time.sleep(seconds)
    return node()

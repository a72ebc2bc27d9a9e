"""Functions that say on which node of a Ray they run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import stoker

app = stoker.App("on-ray-work")


def node() -> str:
    """Return the name of the node that this runs on: its home is in a directory of that name."""
    return Path(os.environ["STOKER_HOME"]).parent.name


@app.function(lost_retries=100)
def square(x: int) -> int:
    time.sleep(0.005)
    return x * x


@app.function(lost_retries=100)
def where(seconds: float) -> str:
    time.sleep(seconds)
    return node()


@app.function(lost_retries=100)
def tells(began: str, gate: str) -> str:
    """Write this node and process down, and return the node once a file is there."""
    with Path(began).open("a") as file:
        file.write(f"{node()} {os.getpid()}\n")
    while not Path(gate).exists():
        time.sleep(0.01)
    return node()


@app.function
def sees(began: str, gate: str) -> tuple[str, str]:
    """Wait as `tells`, and return the node and the devices that are seen there."""
    return tells.local(began, gate), os.environ.get("CUDA_VISIBLE_DEVICES", "")


bigger = stoker.App("on-ray-bigger")


@bigger.function(cpu=8)
def big() -> str:
    return node()

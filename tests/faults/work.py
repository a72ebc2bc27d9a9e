"""Functions that bear being run again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import stoker

app = stoker.App("work")


@app.function(lost_retries=100)
def square(x: int) -> int:
    time.sleep(0.01)
    return x * x


@app.function(lost_retries=100)
def quick(x: int) -> int:
    return x * x


@app.function
def echo(value: str) -> str:
    return value


@app.function(lost_retries=100)
def waits(gate: str) -> str:
    """Return what is in a file once it is there."""
    while not Path(gate).exists() or not Path(gate).read_text():
        time.sleep(0.01)
    return Path(gate).read_text()


@app.function
def grows(gate: str, size: int) -> str:
    """Return so many characters once a file is there."""
    while size > 1 and not Path(gate).exists():
        time.sleep(0.01)
    return "x" * size


@app.function(lost_retries=100)
def tells(began: str, gate: str) -> int:
    """Write this process's id down, and return it once a file is there."""
    with Path(began).open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not Path(gate).exists():
        time.sleep(0.01)
    return os.getpid()

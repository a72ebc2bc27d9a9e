"""A function whose module imports torch, started anew for each call: on Stoker, and in a new process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

import stoker
from bench.processes import lives

app = stoker.App("torch-bench")
SETTLE_SECONDS = 0.3  # for the server to have heard of the worker's end


@app.function(idle_timeout=0.1)
def total(n: int) -> tuple[int, float]:
    return os.getpid(), float(torch.ones(n).sum())


def plain_total(n: int) -> tuple[int, float]:
    return os.getpid(), float(torch.ones(n).sum())


def on_stoker() -> Iterator[Callable[..., Any]]:
    with app.run(show_progress=False):
        previous, _ = total.remote(8)  # the first start imports; the second forks

        def turn() -> dict[str, float]:
            nonlocal previous
            while lives(previous):
                time.sleep(0.02)
            time.sleep(SETTLE_SECONDS)
            began = time.perf_counter()
            pid, value = total.remote(8)
            took = time.perf_counter() - began
            if pid == previous or value != 8.0:
                raise AssertionError("no cold start, or a wrong result")
            previous = pid
            return {"ms": 1e3 * took}

        yield turn


def in_new_process() -> Iterator[Callable[..., Any]]:
    def turn() -> dict[str, float]:
        began = time.perf_counter()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            assert pool.submit(plain_total, 8).result()[1] == 8.0
            took = time.perf_counter() - began
        return {"ms": 1e3 * took}

    yield turn

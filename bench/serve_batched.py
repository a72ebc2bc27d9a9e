"""A model whose batch of any size up to 32 takes 5 ms, asked by 64 connections: the share of what could be had."""

from __future__ import annotations

import time

from bench.environments import scratch
from bench.http_load import generator, in_turns
from bench.http_servers import NAMES, all_serving, serving
from bench.report import Line
from bench.served.work import labels

TITLE = f"HTTP: a NumPy MLP in batches, 5 ms each of any size up to 32, 64 connections, load by {generator()}"
IDEAL = 32 / 0.005  # a second
ROW = [0.5] * 16
BODIES = {"bentoml": {"rows": [ROW]}}  # it takes batches only, and joins them
PEERS = ("ray_serve", "bentoml", "litserve")


def measure(scale: float) -> list[Line]:
    seconds = max(1.0, 4.0 * scale)
    rounds = 3 if scale >= 0.5 else 1
    with scratch() as variables, serving("stoker", "label", {"row": ROW}, variables) as alone:
        (best,) = in_turns([alone], connections=64, seconds=seconds, rounds=rounds)
    with scratch() as variables, all_serving(["stoker", *PEERS], "label", {"row": ROW}, variables, BODIES) as servers:
        ours, *theirs = in_turns(servers, connections=64, seconds=seconds, rounds=rounds)
    share = 100 * best["rate"] / IDEAL
    loop = 100 * _in_a_loop(seconds) / IDEAL
    return [
        Line("alone on the machine, of the ideal throughput", "%", share, better="higher", bound=90.0),
        Line("the function alone, one full batch after another, of that", "%", loop, better="higher"),
        *(
            Line("requests", "/s", ours["rate"], better="higher", peer=NAMES[side], theirs=figures["rate"])
            for side, figures in zip(PEERS, theirs, strict=True)
        ),
        *(
            Line("p99", "ms", ours["p99"], peer=NAMES[side], theirs=figures["p99"])
            for side, figures in zip(PEERS, theirs, strict=True)
        ),
    ]


def _in_a_loop(seconds: float) -> float:
    """Return how many rows a second are labelled where there is nothing but the function: what the machine leaves."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        count += len(labels([ROW] * 32))
    return count / (time.perf_counter() - began)

"""Up to ten times more requests than can be answered, as from clients that do not wait for each other.

A worker that holds each request for 5 ms is asked at multiples of what it answers in a closed loop. Clients give a
deadline of 500 ms. Goodput is what was answered by it. Each peer is asked at multiples of its own capacity, with what
it has against overload set so that it fits the deadline: see `bench.served`.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from bench import persistent
from bench.environments import scratch
from bench.halts import Watch
from bench.http_client import LONG_SECONDS
from bench.http_load import closed_loop, own_client
from bench.http_servers import NAMES, Served, serving
from bench.processes import descendants, lives, rss
from bench.report import RESULTS, Line

TITLE = "HTTP: ten times more requests than can be answered, deadline 500 ms"
DEADLINE_SECONDS = 0.5
TIMES = (0.5, 1.0, 2.0, 5.0, 10.0)
PEERS = ("uvicorn", "ray_serve", "bentoml", "litserve")
BARE = "uvicorn, an echo as often"  # what the machine itself leaves: that one is at a quarter of what it can do
CURVES = RESULTS / "serve_overload_curves.json"
HEADERS = {"x-stoker-deadline": "500ms"}  # peers know nothing of it


@dataclass(frozen=True)
class Overloaded:
    """What a server did: its capacity, each load's figures, and the memory it gained under the last, in MiB."""

    capacity: float
    loads: list[dict[str, Any]]
    growth: float = 0.0
    watch: Watch | None = None  # of the machine, under the last load

    @property
    def share(self) -> float:
        """The goodput at the last load, in percent of the capacity."""
        return 100 * float(self.loads[-1]["goodput"]) / self.capacity


def measure(scale: float) -> list[Line]:
    with scratch() as variables:
        with serving("stoker", "slow", {"x": 21}, variables) as served:
            server = int(persistent.stoker(variables, "server", "status")["pid"])
            ours = overloaded(served, seconds=max(2.0, 6 * scale), last=max(5.0, 60 * scale), server=server)
        peers = {}
        for side in PEERS:  # one after another: under such a load each would be in the others' way
            try:
                with serving(side, "slow", {"x": 21}, variables) as served:
                    peers[side] = overloaded(served, seconds=max(2.0, 6 * scale), last=max(2.0, 6 * scale))
            except RuntimeError as error:  # one that does not stand it is no reason to lose what was measured
                print(f"{NAMES[side]} is left out: {error}", file=sys.stderr)
    bare = _bare(10 * ours.capacity, seconds=max(2.0, 20 * scale))
    if scale == 1.0:
        _keep({"stoker": ours, **peers})
    last = ours.loads[-1]
    return [
        Line("capacity, a closed loop", "/s", ours.capacity, better="higher"),
        Line("goodput at ten times that, of it", "%", ours.share, better="higher", bound=90.0),
        Line("what is accepted, p99", "ms", last["accepted_p99"], bound=1e3 * DEADLINE_SECONDS),
        Line("refusals, p50", "ms", last["refused_p50"]),
        Line("refusals, p99", "ms", last["refused_p99"], peer=BARE, theirs=bare["accepted_p99"]),
        Line("refusals, p99.9", "ms", last["refused_p999"], peer=BARE, theirs=bare["accepted_p999"]),
        Line(
            "refusals, slowest",
            "ms",
            last["refused_max"],
            bound=None if ours.watch else 20.0,
            peer=BARE,
            theirs=bare["accepted_max"],
        ),
        *_by_the_machine(last, ours.watch),
        Line("memory gained meanwhile", "MiB", ours.growth, bound=10.0),
        Line("answered otherwise or not at all", "", _other(last), bound=0.0),
        *(
            Line(
                "goodput at ten times, of capacity",
                "%",
                ours.share,
                better="higher",
                peer=NAMES[side],
                theirs=each.share,
            )
            for side, each in peers.items()
        ),
    ]


def overloaded(served: Served, *, seconds: float, last: float, server: int = 0) -> Overloaded:
    """Measure a server's capacity, then ask it at multiples of that, ``last`` seconds at the highest."""
    closed_loop(served, connections=8, seconds=1.0)
    capacity = closed_loop(served, connections=8, seconds=seconds)["rate"]
    given = {"do": "open", "port": served.port, "path": served.path, "body": served.body, "headers": HEADERS}
    loads, growth, watch = [], 0.0, _watch() if server else None
    for times in TIMES:
        asked = {**given, "rate": times * capacity, "deadline": DEADLINE_SECONDS}
        long = last if times == TIMES[-1] else seconds
        with watch if watch is not None and times == TIMES[-1] else nullcontext():
            figures, growth = _watched(server, {**asked, "seconds": long}, long)
        loads.append({"times": times, **figures})
    return Overloaded(capacity, loads, growth, watch)


def _watch() -> Watch | None:
    """Return what looks how even the machine runs; nothing where this user may not have that go before all else."""
    try:
        return Watch()
    except PermissionError:
        print("Whether a slow refusal is the machine's own doing is not looked at: that needs root.", file=sys.stderr)
        return None


def _by_the_machine(last: dict[str, Any], watch: Watch | None) -> list[Line]:
    """Return the lines that hold refusals against what the machine did at their moment."""
    if watch is None:
        return []
    long = [ended - began for began, ended in last["long_refusals"] if not watch.was_slow(began, ended)]
    slowest = max(long, default=LONG_SECONDS)
    left_out = len(last["long_refusals"]) - len(long)
    return [
        Line("refusals, slowest while the machine ran at its usual speed", "ms", 1e3 * slowest, bound=20.0),
        Line("left out of that: took over 1 ms while it was slow, of all", "%", 100 * left_out / last["refused"]),
        Line("the machine itself: time below half of its usual speed", "%", watch.share),
        Line("the machine itself: longest below half of its usual speed", "ms", 1e3 * watch.longest),
    ]


def _watched(server: int, given: dict[str, Any], seconds: float) -> tuple[dict[str, Any], float]:
    """Return what the client has found, and by how many MiB the server and its workers grew after a sixth of it.

    By a figure that the kernel has at hand: to add up the pages of a process stops it for as long as that takes.
    """
    memory: list[float] = []
    pids = [server, *descendants(server)] if server else []
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(own_client, given)
        while pids and not asking.done():
            try:
                asking.exception(seconds / 12)
            except TimeoutError:
                memory.append(sum(rss(pid) for pid in pids if lives(pid)))
        figures = asking.result()
    settled = memory[len(memory) // 6 :]
    return figures, (settled[-1] - settled[0]) if settled else 0.0


def _bare(rate: float, *, seconds: float) -> dict[str, Any]:
    """Return what came of as many requests a second to a server that does nothing but answer."""
    with scratch() as variables, serving("uvicorn", "echo", {"x": 21}, variables) as served:
        asked = {"do": "open", "port": served.port, "path": served.path, "body": served.body, "rate": rate}
        return own_client({**asked, "deadline": DEADLINE_SECONDS, "seconds": seconds})


def _other(figures: dict[str, Any]) -> float:
    """Return how many requests were neither answered nor refused."""
    known = {"200", "429", "503", "504"}
    return float(figures["unsent"] + sum(n for status, n in figures["statuses"].items() if status not in known))


def _keep(found: dict[str, Overloaded]) -> None:
    RESULTS.mkdir(exist_ok=True)
    curves = {
        side: {"capacity": each.capacity, "loads": [_without_moments(load) for load in each.loads]}
        for side, each in found.items()
    }
    CURVES.write_text(json.dumps(curves, indent=2) + "\n")


def _without_moments(load: dict[str, Any]) -> dict[str, Any]:
    return {name: figure for name, figure in load.items() if name != "long_refusals"}

"""A million detached calls queued: the server's memory, how fast it dispatches, how soon after a restart."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from bench.comparison import Place, Side, running
from bench.environments import scratch
from bench.persistent import server, start, stoker, wait_until
from bench.processes import rss
from bench.report import Line
from bench.sides.gated import marks

TITLE = "1 000 000 detached calls queued"
CALLS = 1_000_000
SMALL = 1_000
ROUNDS = 9
CLIENT = Place("stoker", "gated:client")


def measure(scale: float) -> list[Line]:
    calls = int(CALLS * scale)
    with scratch() as variables, server(variables) as pid:
        before = rss(pid)
        with running(CLIENT, variables) as client:
            few = median(_small_round(variables, client, i) for i in range(ROUNDS))
            gate = _gate(variables, "million-0")
            client.turn(do="close", gate=gate)
            client.turn(do="queue", gate=_gate(variables, "million"), calls=calls)
            memory = rss(pid)
            many = median(_burst(variables, client, i) for i in range(ROUNDS))
        ran = len(marks(_gate(variables, "million")))
        stoker(variables, "server", "stop")
        Path(_gate(variables, f"million-{ROUNDS}")).touch()
        began = time.time()
        restarted = start(variables)
        wait_until("the first lease after the restart", lambda: _ran(variables) > ran, seconds=120)
        first = marks(_gate(variables, "million"))[ran] - began
        after = rss(restarted)
    what = f"{calls:,} queued".replace(",", " ")
    return [
        Line(f"server's memory, {what}", "MiB", memory, bound=1536.0),
        Line(f"server's memory after a restart, {what}", "MiB", after, bound=1536.0),
        Line("server's memory before", "MiB", before),
        Line(f"dispatched, {what}", "/s", many, better="higher", peer=f"{SMALL} queued", theirs=few, factor=0.95),
        Line(f"restart to first call run, {what}", "s", first, bound=10.0),
    ]


def _small_round(variables: Mapping[str, str], client: Side, number: int) -> float:
    """Return the calls a second of a thousand that are all there is."""
    gate = _gate(variables, f"small-{number}")
    client.turn(do="close", gate=gate)
    client.turn(do="queue", gate=gate, calls=SMALL)
    Path(gate).touch()
    wait_until("a thousand calls", lambda: len(marks(gate)) >= SMALL, seconds=60)
    return _rate(marks(gate))


def _burst(variables: Mapping[str, str], client: Side, number: int) -> float:
    """Return the calls a second of the first thousand once the gate is open; it is closed again after them."""
    before = _ran(variables)
    Path(_gate(variables, f"million-{number}")).touch()
    wait_until("a thousand calls", lambda: _ran(variables) >= before + SMALL, seconds=60)
    client.turn(do="close", gate=_gate(variables, f"million-{number + 1}"))
    return _rate(marks(_gate(variables, "million"))[before : before + SMALL])


def _ran(variables: Mapping[str, str]) -> int:
    return len(marks(_gate(variables, "million")))


def _rate(marks: list[float]) -> float:
    return (len(marks) - 1) / (marks[-1] - marks[0])


def _gate(variables: Mapping[str, str], name: str) -> str:
    return f"{variables['BENCH_SCRATCH']}/{name}"

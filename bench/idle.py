"""A persistent server and its agent with nothing to do, after having had something to do; zygotes apart."""

from __future__ import annotations

from bench.comparison import Place, running
from bench.environments import scratch
from bench.persistent import agent_of, server
from bench.report import Line
from bench.sides.idling import idling

TITLE = "Idle: a persistent server and its agent"
SECONDS = 30.0
SETTLE_CALLS = 1_000


def measure(scale: float) -> list[Line]:
    seconds = max(5.0, SECONDS * scale)
    with scratch() as variables, server(variables) as pid:
        with running(Place("stoker", "gated:client"), variables) as client:
            client.turn(do="queue", gate=f"{variables['BENCH_SCRATCH']}/gate", calls=SETTLE_CALLS)
        idling([pid], 5.0)  # its workers go
        ours = idling([pid, agent_of(pid)], seconds)
    with scratch() as variables, running(Place("ray", "on_ray:idle"), variables) as ray:
        theirs = ray.turn(seconds=seconds)
    name = f"Ray, {theirs['processes']:.0f} processes"
    return [
        Line("memory together (shared pages once)", "MiB", ours["pss"], bound=120.0),
        Line("memory together (shared pages once)", "MiB", ours["pss"], peer=name, theirs=theirs["pss"]),
        Line("memory together (RSS summed)", "MiB", ours["rss"], peer=name, theirs=theirs["rss"]),
        Line("processor, of one core", "%", ours["cpu"], bound=1.0),
        Line("processor, of one core", "%", ours["cpu"], peer=name, theirs=theirs["cpu"]),
    ]

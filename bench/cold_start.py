"""The second cold start of a function whose module imports torch: no worker is alive, its zygote is."""

from __future__ import annotations

from bench.comparison import Place, medians, running
from bench.environments import scratch
from bench.report import Line

TITLE = "Second cold start of a function whose module imports torch"
PEER_ROUNDS = 3  # two seconds each


def measure(scale: float) -> list[Line]:
    rounds = max(7, int(25 * scale))
    ours, theirs = [], []
    with (
        scratch() as variables,
        running(Place("torch", "with_torch:on_stoker"), variables) as stoker,
        running(Place("torch", "with_torch:in_new_process"), variables) as process,
    ):
        process.turn()  # reads torch's files
        for i in range(rounds):
            ours.append(stoker.turn())
            if i < PEER_ROUNDS:
                theirs.append(process.turn())
    mine, fresh = medians(ours)["ms"], medians(theirs)["ms"]
    slowest = sorted(each["ms"] for each in ours)[-2]
    return [
        Line("no worker alive to result, p50", "ms", mine, bound=50.0),
        Line("no worker alive to result, p50", "ms", mine, peer="a new process", theirs=fresh),
        Line("no worker alive to result, second slowest", "ms", slowest),
    ]

"""How even the machine itself runs: a loop on each core, counted every 10 ms, while nothing else is to be done.

A virtual machine may be slowed down, or halted, by whoever else is on its host. What a server takes at its slowest is
no less than that.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

from bench.environments import ROOT

SLICE_SECONDS = 0.01


def slowed(seconds: float) -> tuple[float, float]:
    """Return the share of its usual speed that a core had in its slowest 10 ms, in percent, and the longest time, in
    milliseconds, that one was below half of it."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "bench.halts"]
    loops = [
        subprocess.Popen([*command, str(core), str(seconds)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for core in cores
    ]
    slowest, longest = 100.0, 0
    for loop in loops:
        counts: list[int] = json.loads(loop.communicate()[0])
        usual = statistics.median(counts)
        slowest = min(slowest, 100 * min(counts) / usual)
        stretch = 0
        for count in counts:
            stretch = stretch + 1 if count < usual / 2 else 0
            longest = max(longest, stretch)
    return slowest, 1e3 * SLICE_SECONDS * longest


def main() -> None:
    core, seconds = int(sys.argv[1]), float(sys.argv[2])
    os.sched_setaffinity(0, {core})
    counts: list[int] = []
    now = time.perf_counter
    until = now() + 2 * SLICE_SECONDS
    while now() < until:
        pass  # the first turns are of the interpreter's start
    over = until + seconds
    while until < over:
        until += SLICE_SECONDS
        count = 0
        while now() < until:
            count += 1
        counts.append(count)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()

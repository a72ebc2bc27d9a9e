"""When the machine itself is slow, whatever runs on it: a virtual one may be held up by who else is on its host.

A process on each core does the same few microseconds of work every 2 ms, before anything else that wants to run there.
Where that work takes twice as long as it usually does, several times in a row, the core is slow: nobody on this machine
can have held it up. ``python -m bench.halts`` looks for 20 s and prints what it has found.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from types import TracebackType

from bench.environments import ROOT

PERIOD_SECONDS = 0.002
TURNS = 400  # of the work that is watched: about 10 microseconds
SLOW = 2.0  # times what it usually takes
APART_SECONDS = 0.007  # slow samples that are no further apart are of one stretch
SAMPLES_MIN = 3  # of a stretch: a single one may have been interrupted by the kernel


class Watch:
    """The stretches in which a core was slow, from entering to leaving, in ``slow``.

    Moments are of `time.perf_counter`, which on Linux is the same clock for all processes.

    Raises:
        PermissionError: this user may start nothing that goes before all else (``SCHED_FIFO``).
    """

    def __init__(self) -> None:
        self.began = self.seconds = 0.0
        self.slow: list[tuple[float, float]] = []
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # here, where it can be an error
        os.sched_setscheduler(0, *before)

    def __enter__(self) -> Watch:
        self.began = time.perf_counter()
        self._watching = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.halts", str(core)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for core in sorted(os.sched_getaffinity(0))
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        found = []
        for each in self._watching:
            samples: list[tuple[float, float]] = json.loads(each.communicate("\n")[0])
            usual = statistics.median(took for _, took in samples)
            found += stretches((at, at + took) for at, took in samples if took > SLOW * usual)
        self.seconds = time.perf_counter() - self.began
        self.slow = joined(found)

    @property
    def share(self) -> float:
        """The part of the time in which a core was slow, in percent."""
        return 100 * sum(end - start for start, end in self.slow) / self.seconds

    @property
    def longest(self) -> float:
        """The seconds of the longest slow stretch."""
        return max((end - start for start, end in self.slow), default=0.0)

    def was_slow(self, began: float, ended: float) -> bool:
        """Whether the machine was slow at a moment between these two.

        A slow stretch counts for half as long again: what has piled up while nothing went on is then worked off.
        """
        return any(start < ended and began < end + (end - start) / 2 for start, end in self.slow)


def stretches(slow: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the stretches that slow samples of one core, in order, are of.

    >>> stretches([(1.0, 1.0), (3.0, 3.001), (3.002, 3.003), (3.005, 3.006), (4.0, 4.0), (4.001, 4.001)])
    [(3.0, 3.006)]
    """
    together: list[list[tuple[float, float]]] = []
    for each in slow:
        if together and each[0] - together[-1][-1][1] < APART_SECONDS:
            together[-1].append(each)
        else:
            together.append([each])
    return [(those[0][0], those[-1][1]) for those in together if len(those) >= SAMPLES_MIN]


def joined(found: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return stretches, those that overlap as one.

    >>> joined([(3.0, 3.1), (1.0, 1.1), (1.05, 1.2)])
    [(1.0, 1.2), (3.0, 3.1)]
    """
    together: list[tuple[float, float]] = []
    for start, end in sorted(found):
        if together and start <= together[-1][1]:
            together[-1] = (together[-1][0], max(end, together[-1][1]))
        else:
            together.append((start, end))
    return together


def _samples() -> list[tuple[float, float]]:
    """Return when each piece of work began and what it took, until there is something to read."""
    os.set_blocking(0, False)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    samples: list[tuple[float, float]] = []
    now = time.perf_counter
    while not _told():
        time.sleep(PERIOD_SECONDS)
        began = now()
        for _ in range(TURNS):
            pass
        samples.append((began, now() - began))
    return samples


def _told() -> bool:
    try:
        os.read(0, 1)
    except BlockingIOError:
        return False
    return True


def main() -> None:
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {int(sys.argv[1])})
        print(json.dumps(_samples()))
        return
    with Watch() as watch:
        time.sleep(20.0)
    print(f"slow for {watch.share:.1f} % of {watch.seconds:.1f} s, the longest for {1e3 * watch.longest:.0f} ms:")
    for start, end in watch.slow:
        print(f"  at {start - watch.began:7.3f} s for {1e3 * (end - start):5.1f} ms")


if __name__ == "__main__":
    main()

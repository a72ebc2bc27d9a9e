"""Run sides in turns, so that what else the machine does falls on all of them alike, and take medians."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.environments import ROOT, python_of

Figures = dict[str, float]
END_SECONDS = 60.0  # Ray takes a while to shut down


@dataclass(frozen=True)
class Place:
    """A function of `bench.sides`, and the environment that it runs in."""

    environment: str
    function: str


class Side:
    """A running `bench.side`."""

    def __init__(self, place: Place, variables: Mapping[str, str]) -> None:
        self.place = place
        self._log = Path(variables["BENCH_SCRATCH"]) / f"{place.function.replace(':', '.')}.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [python_of(place.environment), "-m", "bench.side", f"bench.sides.{place.function}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=dict(variables),
                start_new_session=True,
            )

    def turn(self, **keywords: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(keywords) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RuntimeError(f"{self.place.function} ended ({self.process.returncode}):\n{self._log_tail()}")
        return json.loads(line)

    def end(self) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(END_SECONDS)
        except (BrokenPipeError, subprocess.TimeoutExpired) as error:
            print(f"{self.place.function} did not end by itself: {error}\n{self._log_tail()}", file=sys.stderr)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


@contextmanager
def running(place: Place, variables: Mapping[str, str]) -> Iterator[Side]:
    """Start a side and wait until its stage is set."""
    side = Side(place, variables)
    try:
        side.answer()
        yield side
    finally:
        side.end()


def in_turns(places: list[Place], variables: Mapping[str, str], *, rounds: int, **turn: Any) -> list[Figures]:
    """Return the median of each figure for each place, after one round that does not count."""
    with ExitStack() as stack:
        sides = [stack.enter_context(running(place, variables)) for place in places]
        taken: list[list[Figures]] = [[] for _ in sides]
        for i in range(rounds + 1):
            order = list(range(len(sides)))
            for j in order if i % 2 else reversed(order):
                figures = sides[j].turn(**turn)
                if i:
                    taken[j].append(figures)
    return [medians(figures) for figures in taken]


def medians(figures: list[Figures]) -> Figures:
    return {name: median(each[name] for each in figures) for name in figures[0]}

"""Calls that wait until the test lets them go."""

from __future__ import annotations

from pathlib import Path

import stoker
from tests.on_ray.work import tells
from tests.waiting import wait_until


class Gate:
    """See the module."""

    def __init__(self, place: Path) -> None:
        place.mkdir(exist_ok=True)
        self._began, self._gate = place / "began", place / "gate"

    def spawn(self, count: int) -> list[stoker.Call[str]]:
        return [tells.spawn(*self.files) for _ in range(count)]

    @property
    def files(self) -> tuple[str, str]:
        """Return the arguments of such a call."""
        return str(self._began), str(self._gate)

    @property
    def began(self) -> list[tuple[str, int]]:
        """Return node and process of each run, in the order in which they began."""
        lines = self._began.read_text().splitlines() if self._began.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def wait(self, count: int, *, timeout: float = 60.0) -> list[tuple[str, int]]:
        wait_until(lambda: len(self.began) >= count, timeout=timeout, message=f"{count} runs began")
        return self.began

    def open(self) -> None:
        self._gate.touch()

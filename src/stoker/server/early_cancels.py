"""Cancellations of calls that an earlier term accepted and this one has not read yet: they are kept until it has.

Reading a million rows takes seconds, in which the server answers already. What is asked for meanwhile is decided
together with the row's return, so that nothing of it is leased in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stoker.core import events as e
from stoker.types import FunctionSpec


@dataclass(eq=False)
class Asked:
    """One request. ``found``: the calls it met. ``app``, ``function``: only calls of these may be; empty for any."""

    reason: str
    force: bool
    app: str = ""
    function: str = ""
    found: list[str] = field(default_factory=list)

    def allows(self, spec: FunctionSpec) -> bool:
        return self.app in {"", spec.app} and self.function in {"", spec.name}


class EarlyCancels:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Asked]] = {}
        self._over = asyncio.Event()

    def keep(self, ids: Iterable[str], asked: Asked) -> None:
        """Remember a request for ids that are not known here, while there are rows left to read."""
        if not self._over.is_set():
            for call_id in ids:
                self._waiting.setdefault(call_id, []).append(asked)

    def due(self, restored: Sequence[tuple[str, FunctionSpec]]) -> list[e.Event]:
        """Return what was asked of calls (their ids and functions) that have just been read."""
        if not self._waiting:
            return []
        found: list[e.Event] = []
        for call_id, spec in restored:
            for asked in self._waiting.pop(call_id, ()):
                if asked.allows(spec):
                    asked.found.append(call_id)
                    found.append(e.CancelAsked([call_id], asked.reason, asked.force))
        return found

    def end(self) -> None:
        """All rows are read: what is not known now does not exist, or has ended."""
        self._waiting.clear()
        self._over.set()

    async def wait(self) -> None:
        """Return when all rows are read."""
        await self._over.wait()

"""The control thread: cancels, revocations and drains; the clock; and the connections.

It sleeps in one ``poll`` until the server says something, or something is due: results that have waited for company
long enough, a line without an end, a timeout. Others move its alarm forward with `want`, which costs them a comparison
while results keep coming and a wake-up only after a pause.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from stoker.errors import StokerError
from stoker.protocol.messages import (
    CancelAttempts,
    CloseChannel,
    Drain,
    GatherRank,
    OpenChannel,
    RankGathered,
    Revoke,
    Revoked,
)
from stoker.runner.attempts import Key
from stoker.runner.config import FLUSH_SECONDS
from stoker.runner.installed import installed
from stoker.runner.interrupts import Interrupt
from stoker.runner.links import Abandoned, Links

NEVER = float("inf")
TICKS_AFTER_WANT = 20  # a busy loop asks again within these, and then need not wake us


class Controlled(Protocol):
    """The worker, as the control thread sees it."""

    def tick(self, now: float) -> float:
        """Do what is due; return when the next thing is."""

    def cancel(self, keys: list[Key], interrupt: Interrupt, *, grace: float) -> None: ...

    def revoke(self, keys: list[Key]) -> list[Key]: ...

    def drain(self) -> None: ...

    def open_channel(self, channel_id: str, client: str) -> None: ...

    def close_channel(self, channel_id: str) -> None: ...

    def drop_channel(self) -> None: ...

    def gather(self, call_id: str, attempt: int) -> int:
        """Return a free port for this worker's rank of an attempt."""

    def wake(self) -> None:
        """Let the loop look at what has changed."""

    def abandon(self, reason: str) -> None:
        """End the process: nobody is there to work for."""


class Control:
    """See the module."""

    def __init__(self, links: Links, worker: Controlled) -> None:
        self._links = links
        self._worker = worker
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._until = (
            NEVER  # while we are awake everything that is wanted wakes us: it may have come too late to be seen
        )
        self._ticks = 0
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            CancelAttempts: self._on_cancel,
            Revoke: self._on_revoke,
            Drain: lambda _: self._worker.drain(),
            OpenChannel: lambda message: self._worker.open_channel(message.channel, message.client),
            CloseChannel: lambda message: self._worker.close_channel(message.channel),
            GatherRank: self._on_gather,
        }

    def start(self) -> None:
        """Connect, and go on in a thread of our own.

        Raises:
            Abandoned: no server was there for the grace.
        """
        self._links.restore()
        threading.Thread(target=self._run, name="stoker-control", daemon=True).start()

    def want(self, at: float) -> None:
        """Ask for a tick at this time of `time.monotonic`, or sooner."""
        if at < self._until:
            self._ticks = TICKS_AFTER_WANT
            os.eventfd_write(self._wake, 1)

    def poke(self) -> None:
        """Have the connections looked at."""
        os.eventfd_write(self._wake, 1)

    def give_back(self, keys: list[Key]) -> None:
        """Tell the server that these attempts will not run here. On a broken link nothing need be said: `Held` does."""
        self.say(Revoked([key[0] for key in keys], [key[1] for key in keys]))

    def say(self, message: Any) -> None:
        """Tell the server something that need not be said again when the connection is broken."""
        control = self._links.control
        if control is not None:
            try:
                control.send(message)
            except StokerError:
                self._links.report_broken(self._links.number)

    def close_in_child(self) -> None:
        os.close(self._wake)

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        registered = -1
        while True:
            if self._links.is_broken:
                if registered >= 0:
                    poller.unregister(registered)
                    registered = -1
                self._restore()
            control = self._links.control
            if registered < 0 and control is not None:
                registered = control.fileno()
                poller.register(registered, select.POLLIN)
                if control.has_buffered:  # it has come with the welcome: the socket may never be readable again
                    self._read()
                    continue
            if self._sleep(poller):
                self._read()

    def _restore(self) -> None:
        self._worker.drop_channel()
        self._worker.wake()
        try:
            self._links.restore()
        except Abandoned as error:
            self._worker.abandon(str(error))
        self._worker.wake()

    def _sleep(self, poller: select.poll) -> bool:
        """Do what is due and wait; tell whether the server said something."""
        self._until = NEVER
        now = time.monotonic()
        until = self._worker.tick(now)
        if self._ticks:
            self._ticks -= 1
            until = min(until, now + FLUSH_SECONDS)
        self._until = until
        wait = None if until == NEVER else min(max(0.0, until - time.monotonic()) * 1000, 86_400_000.0)
        heard = False
        for fd, _ in poller.poll(wait):
            if fd == self._wake:
                os.eventfd_read(self._wake)
            else:
                heard = True
        return heard

    def _read(self) -> None:
        control = self._links.control
        if control is None or self._links.is_broken:
            return
        try:
            for received in control.receive_ready():
                handler = self._handlers.get(type(received.message))
                if handler is not None:
                    handler(received.message)
        except (StokerError, OSError):
            self._links.report_broken(self._links.number)

    def _on_cancel(self, message: CancelAttempts) -> None:
        interrupt = {"closed": Interrupt.CLOSED, "gang": Interrupt.GANG}.get(message.reason, Interrupt.CANCEL)
        self._worker.cancel(list(zip(message.ids, message.attempts, strict=True)), interrupt, grace=message.grace)

    def _on_revoke(self, message: Revoke) -> None:
        self.give_back(self._worker.revoke(list(zip(message.ids, message.attempts, strict=True))))

    def _on_gather(self, message: GatherRank) -> None:
        port = self._worker.gather(message.id, message.attempt)
        self.say(RankGathered(message.id, message.attempt, port, installed()))

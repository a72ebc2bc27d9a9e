"""Drives a sync generator: an item for each room that its reader has, and an end when the reader goes away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from stoker.runner.attempts import Attempt
from stoker.runner.config import BATCH_MAX, FLUSH_SECONDS
from stoker.runner.incoming import Incoming
from stoker.runner.interrupts import Interrupt
from stoker.runner.outbox import BATCH_BYTES, Outbox, Payload, Stream


class Host(Protocol):
    """The loop that a generator runs in."""

    def enter_user_code(self, attempt: Attempt) -> None: ...

    def leave_user_code(self) -> None: ...

    def wait_for_room(self, stream: Stream) -> None:
        """Return when there is room, or the attempt is interrupted."""

    def wait_for_input(self, incoming: Incoming) -> None:
        """Return when something has come, or the attempt is interrupted."""


class Sender:
    """Sends items: the first after a pause at once, others in company that is waited for 5 ms at most."""

    def __init__(self, outbox: Outbox, want: Callable[[float], None]) -> None:
        self._outbox = outbox
        self._want = want

    def send(self, stream: Stream, payload: Payload) -> None:
        now = time.monotonic()
        self._outbox.add_item(stream, payload, now)
        pending = stream.pending
        is_full = len(pending.sizes) >= BATCH_MAX or pending.bytes >= BATCH_BYTES
        if is_full or not stream.has_room or now - stream.sent_at >= FLUSH_SECONDS:
            self._outbox.flush_items(stream)
        else:
            self._want(stream.since + FLUSH_SECONDS)


def drive(
    generator: Iterator[Any],
    stream: Stream,
    *,
    host: Host,
    sender: Sender,
    encode: Callable[[Attempt, object], Payload],
) -> None:
    """Run a generator to its end. Raises what it raises, and the interrupt's exception where there is one."""
    attempt = stream.attempt
    try:
        while True:
            if not stream.has_room and attempt.interrupt is None:
                host.leave_user_code()
                host.wait_for_room(stream)
            host.enter_user_code(attempt)
            if attempt.interrupt is not None and not attempt.raised:
                attempt.raised = True
                _interrupt(generator, attempt.interrupt)
                return
            try:
                item = next(generator)
            except StopIteration:
                return
            payload = encode(attempt, item)
            host.leave_user_code()
            sender.send(stream, payload)
    finally:
        host.leave_user_code()


def _interrupt(generator: Any, interrupt: Interrupt) -> None:
    """Raise at the yield; a generator that answers with another item is closed."""
    if interrupt is not Interrupt.CLOSED and hasattr(generator, "throw"):
        try:
            generator.throw(interrupt.exception())
        except StopIteration:
            return
    generator.close()

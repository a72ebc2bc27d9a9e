"""The loop for sync functions that run one call at a time: on the main thread, which also reads the leases.

Nothing is handed from thread to thread on the way of a call. A call is interrupted by a signal to the main thread,
whose handler raises only if that very call is in user code.
"""

from __future__ import annotations

import select
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stoker.protocol.web_calls import WebRequest
from stoker.runner.ahead import Ahead
from stoker.runner.attempts import Attempt
from stoker.runner.batches import Batches, Group
from stoker.runner.callables import Target
from stoker.runner.exchanges import ThreadExchange
from stoker.runner.generators import drive
from stoker.runner.incoming import Incoming
from stoker.runner.interrupts import INTERRUPT_SIGNAL
from stoker.runner.outbox import Stream
from stoker.transport.current import enter_only_call

if TYPE_CHECKING:
    from stoker.runner.worker import Worker


REPORTED_TOGETHER = 16  # results, beside the next batch: their callers are answered while the others are encoded


class Waiter:
    """Waits for the lease connection and for being woken, by whoever reads the inbox on the main thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._poller = select.poll()
        self._poller.register(worker.wake_fd, select.POLLIN)
        self._registered = -1
        self._number = 0
        self._channel_fd = -1

    def wait(self, seconds: float | None = None) -> None:
        """Return when something has come and was handed on, or somebody woke us, or the time is over."""
        fd = self._follow()
        if self._worker.channel is not None or self._channel_fd >= 0:
            self._follow_channel()
        for ready, _ in self._poller.poll(None if seconds is None else max(0.0, 1000 * seconds)):
            if ready == self._channel_fd:
                self._read_channel()
            elif ready == self._worker.wake_fd:
                self._worker.clear_wake()
            elif ready == fd and not self._worker.inbox.read():
                self._worker.control.poke()

    def _read_channel(self) -> None:
        channel = self._worker.channel
        if channel is not None and not channel.closed and not channel.read():
            self._worker.close_channel()

    def _follow_channel(self) -> None:
        """Poll the channel that there is now; let go of one that was closed."""
        channel = self._worker.channel
        if channel is not None and channel.closed:
            self._leave_channel()
            channel.release()
            self._worker.channel = None
        elif channel is not None and channel.fileno() != self._channel_fd:
            self._leave_channel()
            self._channel_fd = channel.fileno()
            self._poller.register(self._channel_fd, select.POLLIN)

    def _leave_channel(self) -> None:
        if self._channel_fd >= 0:
            self._poller.unregister(self._channel_fd)
            self._channel_fd = -1

    def _follow(self) -> int:
        """Poll the connection that there is now."""
        inbox = self._worker.inbox
        fd = inbox.fileno
        current = -1 if fd is None else fd
        if current != self._registered or inbox.number != self._number:
            if self._registered >= 0:
                self._poller.unregister(self._registered)
            if current >= 0:
                self._poller.register(current, select.POLLIN)
            self._registered, self._number = current, inbox.number
        return current


class InlineLoop:
    """See the module."""

    event_loop = None

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiter = Waiter(worker)
        self._inside: Attempt | None = None
        self._batch: list[Attempt] = []  # what runs together
        self._batches = Batches(worker) if worker.config.batch is not None else None
        self._ahead: Ahead | None = None
        self._thread = 0

    def prepare(self) -> None:
        self._thread = threading.get_ident()
        signal.signal(INTERRUPT_SIGNAL, self._on_signal)

    def after_user_fork(self) -> None:
        """In a child that user code forked there are no other threads to wait for."""
        self._ahead = None

    def run_hook(self, call: Callable[[], Any]) -> None:
        call()

    def run(self) -> None:
        worker = self._worker
        outbox = worker.outbox
        if self._batches is not None and worker.answers_requests:
            self._ahead = Ahead(worker, self._waiter, count=self._batches.size)
        while True:
            attempt = worker.take()
            if attempt is not None and self._batches is not None:
                self._run_all(self._batches, self._batches.gather(attempt, wait=self._wait))
                continue
            if attempt is not None:
                self._run(attempt)
                continue
            enter_only_call(None)
            self._read_again()
            if worker.desk.waiting:
                continue  # the other thread has read it, after it was looked for
            outbox.flush()
            if worker.is_finished:
                return
            self._waiter.wait()

    def _wait(self, seconds: float) -> None:
        self._read_again()
        if not self._worker.desk.waiting:  # else the other thread has read what is waited for
            self._waiter.wait(seconds)

    def _read_again(self) -> None:
        """Read the leases on this thread, from now until a batch runs."""
        if self._ahead is not None:
            self._ahead.end()

    def _run(self, attempt: Attempt) -> None:
        worker = self._worker
        worker.begin(attempt)
        enter_only_call(attempt)
        self._report(attempt, lambda: self._call(attempt))

    def _report(self, attempt: Attempt, call: Callable[[], Any]) -> None:
        worker = self._worker
        try:
            try:
                self._inside = attempt
                if attempt.interrupt is not None:
                    self._on_signal()  # it came before there was anybody inside
                report = worker.reports.of_value(attempt, call())
            finally:
                self._inside = None
        except BaseException as error:  # noqa: BLE001 - user code may raise anything; nothing of it may end the worker
            self._inside = None  # an interrupt may have come just before the line above
            report = worker.reports.of_error(attempt, error)
        worker.finish(attempt, report)

    # -- batches

    def _run_all(self, batches: Batches, attempts: list[Attempt]) -> None:
        worker = self._worker
        for attempt in attempts:
            worker.begin(attempt)
        enter_only_call(attempts[0])
        for group in batches.in_turn(attempts):
            enter_only_call(group.attempts[0])
            worker.outbox.flush()  # what has ended before: this may take long
            if group.target.batch is None:
                self._run_alone(group)
            else:
                self._run_group(batches, group)
        worker.outbox.flush()

    def _run_alone(self, group: Group) -> None:
        """Run what is not batched, of a class of which other methods are."""
        self._read_again()
        self._report(group.attempts[0], lambda: self._apply(*group.only()))

    def _run_group(self, batches: Batches, group: Group) -> None:
        try:
            if self._ahead is not None:
                self._ahead.begin()
            try:
                self._batch = group.attempts
                self._interrupt_batch()  # by what came before, while their inputs were read
                values = group.call()
            finally:
                self._batch = []
        except BaseException as error:  # noqa: BLE001 - user code may raise anything; nothing of it may end the worker
            self._batch = []
            batches.fail(group, error)
        else:
            self._end_group(batches, group, values)

    def _end_group(self, batches: Batches, group: Group, values: Any) -> None:
        """Report what a batch has returned: at once, or beside the next one where that may begin."""
        worker = self._worker
        if (
            self._ahead is None
            or not worker.desk.waiting
            or not batches.may_end_later(values)
            or not self._ahead.may_leave()
        ):
            batches.end(group, values)
            return

        kept, now = list(values), time.monotonic()  # the list itself may be written over, too
        for attempt in group.attempts:
            attempt.ended = now

        def report() -> None:
            for _ in batches.ending(group, kept, every=REPORTED_TOGETHER):
                worker.outbox.flush()

        self._ahead.leave(report)

    def _call(self, attempt: Attempt) -> Any:
        return self._apply(attempt, *self._worker.resolve(attempt))

    def _apply(self, attempt: Attempt, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target.is_exchange:
            return self._exchange(attempt, target, *args)
        if target.is_generator:
            return self._generate(attempt, target.call, args, kwargs)
        return self._worker.reports.encode_result(attempt, target.call(*args, **kwargs))

    def _exchange(self, attempt: Attempt, target: Target, request: WebRequest) -> bytes:
        exchange = ThreadExchange(self._worker, attempt, request, waits=self)
        try:
            answer: bytes = target.call(exchange)
            return answer
        finally:
            exchange.close()

    def _generate(
        self, attempt: Attempt, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bytes:
        worker = self._worker
        stream = worker.open_stream(attempt)
        try:
            generator = function(*args, **kwargs)
            drive(generator, stream, host=self, sender=worker.sender, encode=worker.reports.encode_item)
        finally:
            worker.close_stream(stream)
        return b""

    # -- the host of a generator

    def enter_user_code(self, attempt: Attempt) -> None:
        self._inside = attempt

    def leave_user_code(self) -> None:
        self._inside = None

    def wait_for_room(self, stream: Stream) -> None:
        worker = self._worker
        while not stream.has_room and stream.attempt.interrupt is None:
            worker.outbox.flush()
            self._waiter.wait()

    def wait_for_input(self, incoming: Incoming) -> None:
        worker = self._worker
        while not incoming.has_news and incoming.attempt.interrupt is None:
            worker.outbox.flush()
            self._waiter.wait()

    # -- interrupts

    def interrupt(self, attempt: Attempt) -> None:
        """Make the main thread look: in user code it raises, at a generator's wait it wakes."""
        if attempt.interrupt is not None:
            signal.pthread_kill(self._thread, INTERRUPT_SIGNAL)
            self._worker.wake()

    def close_generator(self, _: Attempt) -> None:
        self._worker.wake()

    def on_room(self, stream: Stream) -> None:
        """Nothing to do: the main thread itself has read it."""

    def _on_signal(self, *_: object) -> None:
        if self._batch:
            self._interrupt_batch()
            return
        attempt = self._inside
        if attempt is None or attempt.raised or attempt.interrupt is None:
            return
        attempt.raised = True
        raise attempt.interrupt.exception()

    def _interrupt_batch(self) -> None:
        """Raise in a batch once nobody wants any of it any more: what one call of it is told the others are not."""
        interrupts = [attempt.interrupt for attempt in self._batch]
        if all(interrupts) and not any(attempt.raised for attempt in self._batch):
            for attempt in self._batch:
                attempt.raised = True
            if (first := interrupts[0]) is not None:
                raise first.exception()

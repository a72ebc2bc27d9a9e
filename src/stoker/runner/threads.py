"""The loop for sync functions that run several calls at once: threads that take attempts as they come.

The main thread only reads. Nothing interrupts a thread: a cancelled call can see it in `CurrentCall.cancelled`, a
generator ends at its next yield, and one that does neither in time ends with its worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stoker.protocol.web_calls import WebRequest
from stoker.runner import pools
from stoker.runner.attempts import Attempt
from stoker.runner.batches import Batches
from stoker.runner.callables import Target
from stoker.runner.exchanges import ThreadExchange
from stoker.runner.generators import drive
from stoker.runner.incoming import Incoming
from stoker.runner.inline import Waiter
from stoker.runner.interrupts import Interrupt
from stoker.runner.outbox import Payload, Stream
from stoker.transport.current import enter_call

if TYPE_CHECKING:
    from stoker.runner.worker import Worker


class ThreadsLoop:
    """See the module."""

    event_loop = None

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiter = Waiter(worker)
        self._news = threading.Condition()
        self._idle = 0
        self._threads = 0
        self._batches = Batches(worker) if worker.config.batch is not None else None

    def prepare(self) -> None:
        """Nothing to do: threads start when there is work for them."""

    def after_user_fork(self) -> None:
        """Nothing to do: nobody waits for another thread on the way out of user code."""

    def run_hook(self, call: Callable[[], Any]) -> None:
        call()

    def run(self) -> None:
        worker = self._worker
        while not worker.is_finished:
            self._waiter.wait()
            if worker.stopping:
                worker.take()
            with self._news:
                waiting = len(worker.desk.waiting)
                while self._threads < worker.config.concurrency and self._idle < waiting:
                    self._threads += 1
                    self._idle += 1
                    threading.Thread(target=self._work, name=f"call-{self._threads}", daemon=True).start()
                self._news.notify_all()

    def _work(self) -> None:
        worker = self._worker
        pools.raise_pools(worker.threads, worker.order.cpus)
        while True:
            with self._news:
                attempt = worker.take()
                while attempt is None:
                    self._news.wait()
                    attempt = worker.take()
                self._idle -= 1
                attempts = [attempt] if self._batches is None else self._batches.gather(attempt, wait=self._await_news)
            if self._batches is None:
                self._run(attempt)
            else:
                self._run_all(self._batches, attempts)
            with self._news:
                self._idle += 1
            if worker.desk.draining:
                worker.wake()

    # -- batches

    def _await_news(self, seconds: float) -> None:
        self._news.wait(seconds)

    def _run_all(self, batches: Batches, attempts: list[Attempt]) -> None:
        worker = self._worker
        for attempt in attempts:
            worker.begin(attempt)
        enter_call(attempts[0])
        for group in batches.in_turn(attempts):
            enter_call(group.attempts[0])
            worker.outbox.flush()  # what has ended before: this may take long
            if group.target.batch is None:
                self._report(group.attempts[0], lambda group=group: self._apply(*group.only()))  # type: ignore[misc]
                continue
            try:
                values = group.call()
            except BaseException as error:  # noqa: BLE001 - user code may raise anything; it must not end the worker
                batches.fail(group, error)
            else:
                batches.end(group, values)
        enter_call(None)
        worker.outbox.flush()

    def _run(self, attempt: Attempt) -> None:
        enter_call(attempt)
        self._worker.begin(attempt)
        self._report(attempt, lambda: self._call(attempt))
        enter_call(None)

    def _report(self, attempt: Attempt, call: Callable[[], Payload]) -> None:
        worker = self._worker
        try:
            payload = call()
            self._heed(attempt)
            report = worker.reports.of_value(attempt, payload)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything; nothing of it may end the worker
            self._heed(attempt)
            report = worker.reports.of_error(attempt, error)
        worker.finish(attempt, report)

    def _heed(self, attempt: Attempt) -> None:
        # Nobody can raise anything in a thread, so being asked to stop counts as having been told.
        attempt.raised = attempt.interrupt is not None

    def _call(self, attempt: Attempt) -> Payload:
        return self._apply(attempt, *self._worker.resolve(attempt))

    def _apply(self, attempt: Attempt, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
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
        """Nothing to do: nothing interrupts a thread."""

    def leave_user_code(self) -> None:
        """Nothing to do: nothing interrupts a thread."""

    def wait_for_room(self, stream: Stream) -> None:
        with self._news:
            while not stream.has_room and stream.attempt.interrupt is None:
                self._news.wait()

    def wait_for_input(self, incoming: Incoming) -> None:
        with self._news:
            while not incoming.has_news and incoming.attempt.interrupt is None:
                self._news.wait()

    # -- asked for by the control thread

    def interrupt(self, attempt: Attempt) -> None:
        attempt.cancelled = attempt.interrupt is not Interrupt.CLOSED or attempt.cancelled
        self._worker.wake()

    def close_generator(self, attempt: Attempt) -> None:
        self._worker.wake()

    def on_room(self, stream: Stream) -> None:
        """The main thread notifies after each message."""

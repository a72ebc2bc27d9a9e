"""The loop for async functions: their calls are tasks of one event loop, on the main thread.

The lease connection is read by the same event loop, so a call costs no thread hop; results of calls that end in one
turn of the loop share a frame.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from stoker.runner.attempts import Attempt, Key
from stoker.runner.batches import Batches, Group
from stoker.runner.interrupts import Interrupt
from stoker.runner.outbox import Stream
from stoker.transport.current import enter_call, enter_only_call

if TYPE_CHECKING:
    from stoker.runner.worker import Worker


class TasksLoop:
    """See the module."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._rooms: dict[Key, asyncio.Event] = {}
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._registered = -1
        self._number = 0
        self._is_turn_due = False
        self._concurrency = max(1, worker.config.concurrency)
        self._batches = Batches(worker) if worker.config.batch is not None else None
        self._gathering = False
        self._came = asyncio.Event()
        self._together: dict[Key, list[Attempt]] = {}  # by each attempt of a batch that runs, all of them

    def prepare(self) -> None:
        asyncio.set_event_loop(self._loop)

    def run(self) -> None:
        self._loop.add_reader(self._worker.wake_fd, self._on_wake)
        self._loop.call_soon(self._look)
        while not self._done.done():
            try:
                self._loop.run_until_complete(self._done)
            except (SystemExit, KeyboardInterrupt, RuntimeError):
                # User code ended the event loop from a task or callback of its own: that is not a worker's end.
                sys.excepthook(*sys.exc_info())

    def _on_wake(self) -> None:
        self._worker.clear_wake()
        self._look()

    def _on_readable(self) -> None:
        if not self._worker.inbox.read():
            self._worker.control.poke()
        self._look()

    def _turn(self) -> None:
        """Send what ended in this turn of the event loop, in one frame, and start what there is room for."""
        self._is_turn_due = False
        self._worker.outbox.flush()
        self._look()

    def _look(self) -> None:
        """Follow the connection, start what there is room for, and end when all is done."""
        self._follow()
        self._came.set()
        while len(self._tasks) < self._concurrency and not self._gathering:
            attempt = self._worker.take()
            if attempt is None:
                break
            self._gathering = self._batches is not None
            work = self._run(attempt) if self._batches is None else self._run_all(self._batches, attempt)
            self._tasks[attempt.key] = self._loop.create_task(work, name=f"call {attempt.id}")
        if self._worker.is_finished and not self._done.done():
            self._done.set_result(None)

    def _follow(self) -> None:
        inbox = self._worker.inbox
        fd = inbox.fileno
        current = -1 if fd is None else fd
        if current != self._registered or inbox.number != self._number:
            if self._registered >= 0:
                self._loop.remove_reader(self._registered)
            if current >= 0:
                self._loop.add_reader(current, self._on_readable)
            self._registered, self._number = current, inbox.number

    async def _run(self, attempt: Attempt) -> None:
        worker = self._worker
        enter_call(attempt)
        if self._concurrency == 1:
            enter_only_call(attempt)
        worker.begin(attempt)
        try:
            report = worker.reports.of_value(attempt, await self._call(attempt))
        except BaseException as error:  # noqa: BLE001 - user code may raise anything; nothing of it may end the worker
            report = worker.reports.of_error(attempt, error)
        if self._concurrency == 1:
            enter_only_call(None)
        del self._tasks[attempt.key]
        worker.finish(attempt, report, flush=False)
        if not self._is_turn_due:
            self._is_turn_due = True
            self._loop.call_soon(self._turn)

    # -- batches

    async def _gather(self, batches: Batches, first: Attempt) -> list[Attempt]:
        """Return an attempt with those that wait behind it, and that come while it is worth waiting."""
        patience, found, until = batches.patience, [first], 0.0
        while True:
            while len(found) < batches.size and (attempt := self._worker.take()) is not None:
                found.append(attempt)
            now = self._loop.time()
            until = until or now + patience.seconds(len(found))
            if len(found) >= patience.enough or now >= until or self._worker.desk.draining:
                patience.ran(len(found))
                return found
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), until - now)
            except asyncio.TimeoutError:
                continue

    async def _run_all(self, batches: Batches, first: Attempt) -> None:
        worker = self._worker
        try:
            attempts = await self._gather(batches, first)
        finally:
            self._gathering = False
            self._loop.call_soon(self._look)
        for attempt in attempts:
            worker.begin(attempt)
        enter_call(attempts[0])
        for group in batches.grouped(attempts):
            enter_call(group.attempts[0])
            if self._concurrency == 1:
                enter_only_call(group.attempts[0])
            self._together.update((attempt.key, group.attempts) for attempt in group.attempts)
            try:
                values = await self._values(group)
            except BaseException as error:  # noqa: BLE001 - user code may raise anything; it must not end the worker
                batches.fail(group, error)
            else:
                batches.end(group, values)
            for attempt in group.attempts:
                del self._together[attempt.key]
        if self._concurrency == 1:
            enter_only_call(None)
        del self._tasks[first.key]
        self._turn()

    async def _values(self, group: Group) -> Any:
        """Return what a batch returns; of what is not batched a list of one."""
        if group.target.batch is not None:
            return await group.call()
        raise TypeError("a function that is not batched came to batches")

    async def _call(self, attempt: Attempt) -> Any:
        reports = self._worker.reports
        target, args, kwargs = self._worker.resolve(attempt)
        if target.is_generator:
            return await self._generate(attempt, target.call, args, kwargs)
        awaitable: Coroutine[Any, Any, Any] = target.call(*args, **kwargs)
        return reports.encode_result(attempt, await awaitable)

    async def _generate(
        self, attempt: Attempt, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bytes:
        worker = self._worker
        stream = worker.open_stream(attempt)
        room = self._rooms[attempt.key] = asyncio.Event()
        generator = function(*args, **kwargs)
        try:
            while not self._is_closed(attempt):
                try:
                    item = await generator.__anext__()
                except StopAsyncIteration:
                    break
                worker.sender.send(stream, worker.reports.encode_item(attempt, item))
                while not stream.has_room and attempt.interrupt is None:
                    room.clear()
                    await room.wait()
        finally:
            del self._rooms[attempt.key]
            try:
                await generator.aclose()
            finally:
                worker.close_stream(stream)
        return b""

    def _is_closed(self, attempt: Attempt) -> bool:
        if attempt.interrupt is Interrupt.CLOSED:
            attempt.raised = True
        return attempt.raised

    # -- asked for by the control thread

    def interrupt(self, attempt: Attempt) -> None:
        self._loop.call_soon_threadsafe(self._cancel, attempt)

    def _cancel(self, attempt: Attempt) -> None:
        together = self._together.get(attempt.key)
        if together is not None:
            self._cancel_batch(together)
            return
        task = self._tasks.get(attempt.key)
        if task is not None and not attempt.raised:
            attempt.raised = True
            task.cancel()

    def _cancel_batch(self, together: list[Attempt]) -> None:
        """Cancel a batch once nobody wants any of it any more."""
        task = next((self._tasks[one.key] for one in together if one.key in self._tasks), None)
        if task is not None and all(one.interrupt for one in together) and not together[0].raised:
            together[0].raised = True
            task.cancel()

    def close_generator(self, attempt: Attempt) -> None:
        self._loop.call_soon_threadsafe(self._open_room, attempt.key)

    def on_room(self, stream: Stream) -> None:
        """The event loop itself has read it."""
        self._open_room(stream.attempt.key)

    def _open_room(self, key: Key) -> None:
        room = self._rooms.get(key)
        if room is not None:
            room.set()

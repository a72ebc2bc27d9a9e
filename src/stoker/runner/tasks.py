"""The loop for async functions: their calls are tasks of one event loop, on the main thread.

A class may have others beside them: those run in threads, as in `ThreadsLoop`, each awaited by its call's task.

The lease connection is read by the same event loop, so a call costs no thread hop; results of calls that end in one
turn of the loop share a frame.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from stoker.protocol.web_calls import WebRequest
from stoker.runner import pools
from stoker.runner.attempts import Attempt, Key
from stoker.runner.batches import Batches, Group
from stoker.runner.callables import Target
from stoker.runner.exchanges import TaskExchange, ThreadExchange
from stoker.runner.generators import drive
from stoker.runner.incoming import Incoming
from stoker.runner.interrupts import Interrupt
from stoker.runner.outbox import Payload, Stream
from stoker.transport.current import enter_call, enter_only_call

if TYPE_CHECKING:
    from stoker.runner.worker import Worker


class _Raised(Exception):
    """What was raised in a thread, on its way through the call's task."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class TasksLoop:
    """See the module."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = self.event_loop = asyncio.new_event_loop()
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
        self._aside: ThreadPoolExecutor | None = None  # for what is not async
        self._in_threads: set[Key] = set()
        self._news = threading.Condition()  # for generators in threads, which wait for room

    def prepare(self) -> None:
        asyncio.set_event_loop(self._loop)

    def after_user_fork(self) -> None:
        """Nothing to do: nobody waits for another thread on the way out of user code."""

    def run_hook(self, call: Callable[[], Any]) -> None:
        outcome = call()
        if inspect.iscoroutine(outcome):
            self._loop.run_until_complete(outcome)

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
        if self._in_threads:
            self._tell_threads()
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
        await self._report(attempt, self._call(attempt))
        if self._concurrency == 1:
            enter_only_call(None)
        del self._tasks[attempt.key]
        if not self._is_turn_due:
            self._is_turn_due = True
            self._loop.call_soon(self._turn)

    async def _report(self, attempt: Attempt, call: Coroutine[Any, Any, Any]) -> None:
        worker = self._worker
        try:
            report = worker.reports.of_value(attempt, await call)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything; nothing of it may end the worker
            report = worker.reports.of_error(attempt, error.error if isinstance(error, _Raised) else error)
        worker.finish(attempt, report, flush=False)

    # -- batches

    async def _gather(self, batches: Batches, first: Attempt) -> list[Attempt]:
        """Return an attempt with all that are to run with it."""
        gathering = batches.gathering(first)
        if gathering is None:
            return [first]
        while left := gathering.look(self._loop.time()):
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), left)
            except asyncio.TimeoutError:
                continue
        return gathering.found

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
        for group in batches.in_turn(attempts):
            enter_call(group.attempts[0])
            worker.outbox.flush()  # what has ended before: this may take long
            if self._concurrency == 1:
                enter_only_call(group.attempts[0])
            self._together.update((attempt.key, group.attempts) for attempt in group.attempts)
            if group.target.batch is None:
                await self._report(group.attempts[0], self._apply(*group.only()))
            else:
                await self._run_group(batches, group)
            for attempt in group.attempts:
                del self._together[attempt.key]
        if self._concurrency == 1:
            enter_only_call(None)
        del self._tasks[first.key]
        self._turn()

    async def _run_group(self, batches: Batches, group: Group) -> None:
        try:
            values = await group.call() if group.target.is_async else await self._in_thread(group.attempts, group.call)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything; it must not end the worker
            batches.fail(group, error.error if isinstance(error, _Raised) else error)
        else:
            batches.end(group, values)

    async def _call(self, attempt: Attempt) -> Any:
        return await self._apply(attempt, *self._worker.resolve(attempt))

    async def _apply(self, attempt: Attempt, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not target.is_async:
            return await self._call_in_thread(attempt, target, args, kwargs)
        if target.is_exchange:
            return await self._exchange(attempt, target, *args)
        if target.is_generator:
            return await self._generate(attempt, target.call, args, kwargs)
        awaitable: Coroutine[Any, Any, Any] = target.call(*args, **kwargs)
        return self._worker.reports.encode_result(attempt, await awaitable)

    async def _exchange(self, attempt: Attempt, target: Target, request: WebRequest) -> bytes:
        exchange = TaskExchange(self._worker, attempt, request)
        self._rooms[attempt.key] = exchange.room
        try:
            answer: bytes = await target.call(exchange)
            return answer
        finally:
            del self._rooms[attempt.key]
            exchange.close()

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
                if attempt.interrupt is not None:
                    await asyncio.sleep(0)  # its cancellation comes by the event loop, which it may never have left
        finally:
            del self._rooms[attempt.key]
            try:
                await generator.aclose()
            finally:
                worker.close_stream(stream)
        return b""

    # -- what is not async

    async def _call_in_thread(
        self, attempt: Attempt, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Payload:
        run = self._generate_in_thread if target.is_generator else self._return_in_thread
        if target.is_exchange:
            run = self._exchange_in_thread
        try:
            found: Payload = await self._in_thread([attempt], lambda: run(attempt, target, args, kwargs))
            return found
        finally:
            # Nobody can raise anything in a thread, so being asked to stop counts as having been told.
            attempt.raised = attempt.interrupt is not None

    async def _in_thread(self, attempts: list[Attempt], call: Callable[[], Any]) -> Any:
        """Run user code in a thread, for these attempts.

        Raises:
            _Raised: it has raised something.
        """
        if self._aside is None:
            threads, cpus = self._worker.threads, self._worker.order.cpus
            self._aside = ThreadPoolExecutor(
                self._concurrency, "call", initializer=pools.raise_pools, initargs=(threads, cpus)
            )
        keys = {attempt.key for attempt in attempts}
        self._in_threads |= keys
        context = copy_context()

        def outcome() -> tuple[Any, BaseException | None]:  # returned: a future takes no `StopIteration`
            try:
                return context.run(call), None
            except BaseException as error:  # noqa: BLE001 - user code may raise anything
                return None, error

        try:
            found, error = await self._loop.run_in_executor(self._aside, outcome)
            if error is not None:
                raise _Raised(error)
            return found
        finally:
            self._in_threads -= keys

    def _return_in_thread(
        self, attempt: Attempt, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Payload:
        return self._worker.reports.encode_result(attempt, target.call(*args, **kwargs))

    def _exchange_in_thread(
        self, attempt: Attempt, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Payload:
        exchange = ThreadExchange(self._worker, attempt, args[0], waits=self)
        try:
            answer: bytes = target.call(exchange)
            return answer
        finally:
            exchange.close()

    def _generate_in_thread(
        self, attempt: Attempt, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Payload:
        worker = self._worker
        stream = worker.open_stream(attempt)
        try:
            generator = target.call(*args, **kwargs)
            drive(generator, stream, host=self, sender=worker.sender, encode=worker.reports.encode_item)
        finally:
            worker.close_stream(stream)
        return b""

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

    def _tell_threads(self) -> None:
        with self._news:
            self._news.notify_all()

    def _is_closed(self, attempt: Attempt) -> bool:
        if attempt.interrupt is Interrupt.CLOSED:
            attempt.raised = True
        return attempt.raised

    # -- asked for by the control thread

    def interrupt(self, attempt: Attempt) -> None:
        if attempt.key in self._in_threads:
            attempt.cancelled = attempt.interrupt is not Interrupt.CLOSED or attempt.cancelled
            self._tell_threads()
            return
        self._loop.call_soon_threadsafe(self._cancel, attempt)

    def _cancel(self, attempt: Attempt) -> None:
        together = self._together.get(attempt.key)
        task = self._tasks.get(attempt.key)
        if attempt.key in self._in_threads:
            self.interrupt(attempt)  # it was just about to go there
        elif together is not None:
            self._cancel_batch(together)
        elif self._batches is not None:
            self._came.set()  # its batch is being gathered: that looks who still wants it
        elif task is not None and not attempt.raised:
            attempt.raised = True
            task.cancel()

    def _cancel_batch(self, together: list[Attempt]) -> None:
        """Cancel a batch once nobody wants any of it any more."""
        task = next((self._tasks[one.key] for one in together if one.key in self._tasks), None)
        if task is not None and all(one.interrupt for one in together) and not together[0].raised:
            together[0].raised = True
            task.cancel()

    def close_generator(self, attempt: Attempt) -> None:
        self._tell_threads()
        self._loop.call_soon_threadsafe(self._open_room, attempt.key)

    def on_room(self, stream: Stream) -> None:
        """The event loop itself has read it."""
        self._tell_threads()
        self._open_room(stream.attempt.key)

    def _open_room(self, key: Key) -> None:
        room = self._rooms.get(key)
        if room is not None:
            room.set()

"""A worker: what it was leased, the loop that runs it, and the thread that listens meanwhile.

main thread      one of `InlineLoop`, `TasksLoop`, `ThreadsLoop`: reads leases, runs attempts, sends results
control thread   `Control`: cancels, revocations, drains, timeouts, late results, and both connections
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import NoReturn

from stoker.errors import InvalidOption, InvalidRequest
from stoker.protocol.input_messages import Inputs
from stoker.protocol.messages import Ack, ChannelClosed, ChannelOpened, Lease, StreamCredit
from stoker.protocol.payload import decode_call
from stoker.protocol.web_calls import is_request
from stoker.protocol.zygotes import Fork, ZygoteConfig
from stoker.runner import process
from stoker.runner.attempts import Attempt, Desk, Key, Resolved
from stoker.runner.channel import Channel
from stoker.runner.checks import Checks
from stoker.runner.config import EXIT_ABANDONED, EXIT_STOPPED, FLUSH_SECONDS
from stoker.runner.control import NEVER, Control
from stoker.runner.endpoints import Endpoints
from stoker.runner.generators import Sender
from stoker.runner.hooks import Hooks
from stoker.runner.incoming import AllIncoming
from stoker.runner.inline import InlineLoop
from stoker.runner.interrupts import Interrupt
from stoker.runner.links import Abandoned, Inbox, Links
from stoker.runner.outbox import Outbox, Payload, Stream
from stoker.runner.output import Output
from stoker.runner.reports import Report, Reports
from stoker.runner.sampling import Sampler
from stoker.runner.seats import Seats
from stoker.runner.targets import Code
from stoker.runner.tasks import TasksLoop
from stoker.runner.threads import ThreadsLoop
from stoker.transport.current import WorkerIdentity, become_worker
from stoker.types import ErrorInfo

AHEAD_MAX_BYTES = 256 << 10  # of an input that is read ahead: some milliseconds


class Worker:
    """See the module. The loops use its parts; `Control` calls the methods in the middle."""

    def __init__(
        self,
        config: ZygoteConfig,
        order: Fork,
        code: Code,
        output: Output,
        *,
        threads: dict[str, str],
        forked: bool,
    ) -> None:
        self.config = config
        self.order = order
        self.code = code
        self.output = output
        self.threads = threads
        self.desk = Desk()
        self.outbox = Outbox(self.desk, order.worker)
        self.reports = Reports(config, self.outbox, output)
        self.seats = Seats()
        self.incoming = AllIncoming(self.outbox.say)
        self._endpoints = Endpoints(code, label=config.label, methods=_web_methods(config))
        self.stopping = False
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pid = os.getpid()
        self._links = Links(
            config,
            worker=order.worker,
            token=order.token,
            desk=self.desk,
            outbox=self.outbox,
            asking=self.incoming.asking,
        )
        self.control = Control(self._links, self)
        self.sender = Sender(self.outbox, self.control.want)
        self.inbox = Inbox(self._links, self._on_message)
        self._sampler = Sampler(output) if forked else None
        check = code.check
        self._checks = Checks(check, say=self.control.say, want=self.control.want) if check is not None else None
        self.channel: Channel | None = None
        self._escalations: dict[Key, float] = {}
        self._loop: InlineLoop | TasksLoop | ThreadsLoop = _loop_for(config, code)(self)

    # -- the life of the process

    def run(self) -> NoReturn:
        """Work until drained, recycled or stopped, and end the process."""
        config = self.config
        identity = WorkerIdentity(
            self.order.worker,
            config.app,
            config.name,
            config.function,
            config.run_id,
            config.segments,
            config.payload_socket,
        )
        server = config.server or config.server_socket
        become_worker(identity, server=server, token=self.order.token, fingerprint=config.fingerprint)
        os.register_at_fork(after_in_child=self._after_user_fork)
        self.output.notify_partial(self.control.want)
        self._loop.prepare()
        signal.signal(signal.SIGTERM, self._on_terminate)
        hooks = Hooks(self._links, self.output, self._loop.run_hook, label=config.label, worker=self.order.worker)
        hooks.enter(self.code.enter_hooks, limit=config.startup_timeout)
        try:
            self._endpoints.prepare()
        except InvalidOption as error:
            hooks.refuse(ErrorInfo("StartupError", str(error)))
        check = self.code.check
        if self._checks is not None and check is not None:
            hooks.first_check(self._checks, check)
        try:
            self.control.start()
        except Abandoned as error:
            self.abandon(str(error))
        if self._checks is not None:
            self._checks.start(self._loop.event_loop)
        self._loop.run()
        if self._checks is not None:
            self._checks.end()
        self.close_channel()
        hooks.leave(self.code.exit_hooks)
        process.run_exit_hooks()
        self.output.end_call("")
        os._exit(EXIT_STOPPED if self.stopping else 0)

    def lose_connection(self, reason: str) -> None:
        """Have the connection to the server opened anew, which says then what is held here."""
        self.output.log.write(f"stoker: worker {self.order.worker} connects again: {reason}\n".encode())
        self._links.report_broken(self._links.number)
        self.control.poke()

    def abandon(self, reason: str) -> NoReturn:
        self.output.log.write(
            f"stoker: worker {self.order.worker} ends: the server was away for more than {self.config.grace:g} s "
            f"({reason})\n".encode()
        )
        process.kill_own_group()
        os._exit(EXIT_ABANDONED)

    def _on_terminate(self, *_: object) -> None:
        if os.getpid() != self._pid:
            os._exit(128 + signal.SIGTERM)
        if not self._links.number:
            os._exit(EXIT_STOPPED)  # no server has been found yet: there is nothing to end
        self.stopping = True
        self.desk.draining = True
        for attempt in list(self.desk.running.values()):
            if not attempt.ended:  # else its result is there, and about to be reported
                attempt.interrupt = Interrupt.STOP
                self._loop.interrupt(attempt)
        self.wake()

    def _after_user_fork(self) -> None:
        """Make a child that user code forked harmless: it is no worker."""
        self.reports.is_forked_child = True
        self.output.after_user_fork()
        self._links.close_in_child()
        if self.channel is not None:
            self.channel.release()
        self._loop.after_user_fork()
        if signal.getsignal(signal.SIGTERM) == self._on_terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    # -- what the loops use

    @property
    def answers_requests(self) -> bool:
        """Tell whether some of its calls come over HTTP."""
        return bool(_web_methods(self.config))

    @property
    def is_finished(self) -> bool:
        """Tell whether the loop may return: all is done, and the server has every result."""
        if not self.desk.draining or not self.desk.is_idle:
            return False
        return self.stopping or self.outbox.is_empty

    def take(self) -> Attempt | None:
        """Return the next attempt to run; the last one before recycling drains the worker."""
        if self.stopping:
            self.desk.drain()  # what waits is not given back: the server is told of our end, and leases it again
            return None
        attempt = self.desk.take()
        limit = self.config.recycle_after
        if limit is not None and attempt is not None and self.desk.taken >= limit:
            self.drain()
        return attempt

    def take_more(self, count: int, *, method: str) -> list[Attempt]:
        """Return the next attempts of a method, so many at most; the last one before recycling drains the worker."""
        if self.stopping:
            self.desk.drain()
            return []
        limit = self.config.recycle_after
        if limit is not None:
            count = min(count, limit - self.desk.taken)
        found = self.desk.take_all(count, method=method) if count > 0 else []
        if limit is not None and found and self.desk.taken >= limit:
            self.drain()
        return found

    def read_ahead(self, attempt: Attempt) -> bool:
        """Have `resolve` done, from any thread, if that is little work, runs no code of the user's, and the input is
        good. It is tried once; false where it was before."""
        if attempt.was_read_ahead:
            return False
        attempt.was_read_ahead = True
        payload = attempt.body
        if attempt.segment is None and len(payload) <= AHEAD_MAX_BYTES and is_request(payload):
            attempt.is_request = True
            try:
                attempt.ahead = self._endpoints.resolve_ahead(attempt, payload)
            except Exception:  # noqa: BLE001 - it will come again where somebody is told of it
                pass
        return True

    def resolve(self, attempt: Attempt) -> Resolved:
        """Return what an attempt runs, and the arguments for it.

        Raises:
            StokerError: its input is gone or malformed.
            Answered: it came over HTTP, and says nothing that could be run.
        """
        if attempt.ahead is not None:
            return attempt.ahead
        payload = self.reports.read_input(attempt)
        attempt.is_request = is_request(payload)
        if attempt.is_request:
            found = self._endpoints.resolve(attempt, payload)
        else:
            found = self.code.target(*decode_call(payload))
            if found[0].is_exchange:
                raise InvalidRequest(f"{self.config.label} makes a web app, which answers over HTTP only.")
        attempt.is_generator, attempt.method = found[0].is_generator, found[0].method
        return found

    def begin(self, attempt: Attempt) -> None:
        if attempt.seat is not None:
            self.seats.enter(attempt.seat)
        attempt.started = time.monotonic()
        if self._sampler is not None and self.desk.taken == 1:
            self.control.want(self._sampler.begin(attempt.key, attempt.started))

    def finish(self, attempt: Attempt, report: Report, *, flush: bool = True) -> None:
        """Note how an attempt ended. With ``flush`` the results go if enough are there; else the caller sees to it."""
        if self.output.has_open:
            self.output.end_call(attempt.id)
        if attempt.seat is not None:
            self.seats.leave()
        self._escalations.pop(attempt.key, None)
        if attempt.channel is not None and self._answer(attempt, report):
            return
        if report.silent:
            with self.desk.lock:
                self.desk.running.pop(attempt.key, None)
            return
        now = time.monotonic()
        batch = self.outbox.add(attempt, report.outcome, report.payload, now, report.error)
        if not flush:
            return
        if self.outbox.is_due(batch, now, remaining=len(self.desk.waiting)):
            self.outbox.flush()
        elif len(batch.ids) == 1:
            self.control.want(now + FLUSH_SECONDS)

    def finish_all(self, encoded: Sequence[tuple[Attempt, Payload]]) -> None:
        """Note the values of attempts that came by no channel; as `finish`, without a flush."""
        for attempt, _ in encoded:
            if self.output.has_open:
                self.output.end_call(attempt.id)
            if self._escalations:
                self._escalations.pop(attempt.key, None)
        self.outbox.add_values(encoded, time.monotonic())

    def _answer(self, attempt: Attempt, report: Report) -> bool:
        """Answer a call that came by the channel there; false if that is the server's to do."""
        channel, now = attempt.channel, time.monotonic()
        if channel is not None and not report.silent and channel.answer(attempt, report, now):
            due = channel.report_due()
            if due is not None:
                self.control.want(due)
            return True
        self.close_channel()
        return False

    def open_stream(self, attempt: Attempt) -> Stream:
        return self.outbox.open_stream(attempt)

    def close_stream(self, stream: Stream) -> None:
        self.outbox.flush_items(stream)

    def _on_message(self, message: object, parts: list[memoryview], number: int) -> None:
        if isinstance(message, Lease):
            if message.acked:
                self.outbox.acknowledged(message.acked)
            cancelled, returned = self.desk.put(message, parts, connection=number)
            self._settle_unstarted(cancelled)
            if returned:
                self.control.give_back([attempt.key for attempt in returned])
        elif isinstance(message, Ack):
            self.outbox.acknowledged(message.seq)
        elif isinstance(message, Inputs):
            self.incoming.put(message, parts)
        elif isinstance(message, StreamCredit):
            for stream in self.outbox.credit(message.id, message.upto):
                self._loop.on_room(stream)

    def _settle_unstarted(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            report = self.reports.cancelled_unstarted()
            self.outbox.add(attempt, report.outcome, report.payload, time.monotonic(), report.error)
        if attempts:
            self.outbox.flush()

    # -- the channel

    def open_channel(self, channel_id: str, client: str) -> None:
        """Take calls straight from a client, where the loop can."""
        if not isinstance(self._loop, InlineLoop) or self.desk.draining or self.channel is not None:
            self.outbox.say(ChannelClosed(channel_id, [], []))
            return
        self.channel = Channel(channel_id, client, self.desk)
        self.control.say(ChannelOpened(channel_id, self.channel.address, self.channel.key))
        self.wake()

    def close_channel(self, channel_id: str = "") -> None:
        """Take no more calls from the client, and tell the server what it now has to know."""
        channel = self.channel
        if channel is None or (channel_id and channel.id != channel_id):
            return
        with channel.lock:
            if not channel.closed:
                running = channel.close()
                ids, attempts = [key[0] for key in running], [key[1] for key in running]
                # Before any result of these can follow it: that one waits for the lock.
                self.outbox.say(ChannelClosed(channel.id, ids, attempts, channel.answered))
        self._tell_used(channel)
        self.wake()

    def drop_channel(self) -> None:
        """Close the channel because the server is away: what runs is among what it is told when it is back."""
        channel = self.channel
        if channel is not None:
            with channel.lock:
                if not channel.closed:
                    channel.close()
            self.wake()

    def _report_channel(self, now: float) -> float | None:
        channel = self.channel
        due = channel.report_due() if channel is not None else None
        if channel is None or due is None:
            return None
        if now < due:
            return due
        self._tell_used(channel)
        return None

    def _tell_used(self, channel: Channel) -> None:
        report = channel.take_report()
        if report is not None:
            self.control.say(report)

    # -- what the control thread asks for

    def tick(self, now: float) -> float:
        dues = [
            self.outbox.flush_due(now, after=FLUSH_SECONDS),
            self.output.show_due(now),
            self._check_attempts(now),
            self._report_channel(now),
            self._sampler.check(now, self.desk.running) if self._sampler is not None else None,
            self._checks.due(now) if self._checks is not None else None,
        ]
        return min((due for due in dues if due is not None), default=NEVER)

    def _check_attempts(self, now: float) -> float:
        """Time out what ran too long. An idle worker looks again after one timeout: nothing can be due before that."""
        timeout = self.config.timeout if self.config.timeout > 0 else NEVER
        due = now + timeout
        for attempt in list(self.desk.running.values()):
            escalation = self._escalations.get(attempt.key)
            if escalation is not None and now >= escalation:
                del self._escalations[attempt.key]
                attempt.interrupt = Interrupt.CANCEL
                self._loop.interrupt(attempt)
            elif escalation is not None:
                due = min(due, escalation)
            if attempt.interrupt is None and attempt.started and not attempt.ended:
                if now >= attempt.started + timeout:
                    attempt.interrupt = Interrupt.TIMEOUT
                    self._loop.interrupt(attempt)
                else:
                    due = min(due, attempt.started + timeout)
        return due

    def cancel(self, keys: list[Key], interrupt: Interrupt, *, grace: float) -> None:
        dropped, running = self.desk.cancel(keys)
        self._settle_unstarted(dropped)
        for attempt in running:
            if attempt.interrupt is not None:
                continue
            attempt.cancelled = True
            if interrupt is Interrupt.CLOSED and attempt.is_generator:
                # It is closed at its next yield; one that does not come to it in time is interrupted where it is.
                attempt.interrupt = Interrupt.CLOSED
                self._escalations[attempt.key] = time.monotonic() + grace / 2
                self._loop.close_generator(attempt)
            else:
                attempt.interrupt = Interrupt.GANG if interrupt is Interrupt.GANG else Interrupt.CANCEL
                self._loop.interrupt(attempt)

    def gather(self, call_id: str, attempt: int) -> int:
        return self.seats.gather()

    def revoke(self, keys: list[Key]) -> list[Key]:
        return self.desk.revoke(keys, finished=self.outbox.finished_keys)

    def drain(self) -> None:
        self.close_channel()
        left = self.desk.drain()
        if left:
            self.control.give_back([attempt.key for attempt in left])
        self.wake()

    def wake(self) -> None:
        os.eventfd_write(self.wake_fd, 1)

    def clear_wake(self) -> None:
        try:
            os.eventfd_read(self.wake_fd)
        except BlockingIOError:
            pass  # somebody else of us has seen it


def _web_methods(config: ZygoteConfig) -> dict[str, list[str]]:
    found = {name: method.web.methods for name, method in config.methods.items() if method.web is not None}
    return found if config.web is None else {"": config.web.methods, **found}


def _loop_for(config: ZygoteConfig, code: Code) -> type[InlineLoop] | type[TasksLoop] | type[ThreadsLoop]:
    if code.has_async:
        return TasksLoop
    return InlineLoop if config.concurrency <= 1 else ThreadsLoop

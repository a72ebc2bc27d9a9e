"""The core's commands, carried out: to links, the store's thread, and the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import Call, Delivery, Payload, Settlement
from stoker.engine.base import Bundle, Engine, Grant, WorkerSpec
from stoker.errors import StokerError
from stoker.protocol import messages as m
from stoker.server.kept_payloads import Keeping
from stoker.server.payloads import PayloadFiles
from stoker.server.tokens import WorkerTokens
from stoker.server.web_records import HTTP_SESSIONS, status_of
from stoker.server.writer import StoreWriter
from stoker.store.base import AcceptedRow, ProgressRow, SettledRow, Write
from stoker.types import CallState, ErrorInfo

if TYPE_CHECKING:
    from stoker.server.server import Server


@dataclass(frozen=True, slots=True)
class WebOrigin:
    """What was asked over HTTP: ``POST /shop/move``; and the digest of a request with an Idempotency-Key."""

    request: str
    digest: str


_NO_ORIGIN = WebOrigin("", "")


class Executor:
    """See the module. ``wall`` turns the core's times into Unix ones."""

    def __init__(
        self,
        server: Server,
        *,
        engine: Engine,
        writer: StoreWriter,
        files: PayloadFiles,
        tokens: WorkerTokens,
        seq: int,
        keeping: Keeping | None,
    ) -> None:
        self._server = server
        self._engine = engine
        self._writer = writer
        self._files = files
        self._tokens = tokens
        self._seq = seq
        self._keeping = keeping
        self.grants: dict[str, Grant] = {}
        self.origins: dict[str, WebOrigin] = {}  # of calls that are being written down, by their ids
        self._doers: dict[type[Any], Callable[[Any], None]] = {
            c.LeaseCalls: self._lease,
            c.GatherRank: self._gather_rank,
            c.LeaseRank: self._lease_rank,
            c.RevokeLeases: self._revoke,
            c.CancelRunning: self._cancel,
            c.GrantStream: self._grant_stream,
            c.DeliverItems: self._deliver_items,
            c.Deliver: self._deliver,
            c.TellAccepted: self._tell_accepted,
            c.TellRefused: self._tell_refused,
            c.PersistAccepted: self._persist_accepted,
            c.PersistSettled: self._persist_settled,
            c.PersistProgress: self._persist_progress,
            c.Discard: self._discard,
            c.StartWorker: self._start_worker,
            c.StartGang: self._start_gang,
            c.DrainWorker: self._drain_worker,
            c.StopWorker: self._stop_worker,
            c.OpenChannel: self._open_channel,
            c.CloseChannel: self._close_channel,
            c.TellChannel: self._tell_channel,
            c.LendCpus: self._lend,
            c.SetWindow: self._set_window,
            c.TellPhase: self._tell_phase,
            c.TellTookOver: self._tell_took_over,
            c.TellTrialFailed: self._tell_trial_failed,
        }

    def execute(self, commands: Sequence[c.Command]) -> None:
        for command in commands:
            self._doers[type(command)](command)

    def _lease(self, command: c.LeaseCalls) -> None:
        self._server.worker_links(command.worker).lease(command.calls)

    def _gather_rank(self, command: c.GatherRank) -> None:
        self._server.worker_links(command.worker).say(m.GatherRank(command.id, command.attempt))

    def _lease_rank(self, command: c.LeaseRank) -> None:
        self._server.worker_links(command.worker).lease([command.call], seat=command.seat)

    def _revoke(self, command: c.RevokeLeases) -> None:
        self._server.worker_links(command.worker).say(m.Revoke(list(command.ids), list(command.attempts)))

    def _cancel(self, command: c.CancelRunning) -> None:
        message = m.CancelAttempts(list(command.ids), list(command.attempts), command.grace, command.reason)
        self._server.worker_links(command.worker).say(message)

    def _grant_stream(self, command: c.GrantStream) -> None:
        leases = self._server.worker_links(command.worker).leases
        if leases is not None:
            leases.send(m.StreamCredit(command.id, command.upto))

    def _deliver_items(self, command: c.DeliverItems) -> None:
        session = self._server.sessions.get(command.client)
        if session is not None:
            session.deliver_items(command.id, command.attempt, command.first, command.payloads)

    def _deliver(self, command: c.Deliver) -> None:
        self._server.records.add(command.deliveries, now=self._server.now())
        self._server.tally.delivered(command.deliveries, self._server.now())
        if self._server.spans is not None:
            self._server.spans.ended(command.deliveries)
        self._server.shadows.delivered(command.deliveries)
        if command.detached:
            self._server.watches.deliver(command.deliveries)
            self._server.callbacks.settled(delivery.id for delivery in command.deliveries)
            return
        session = self._server.sessions.get(command.client)
        if session is not None:
            session.deliver(command.deliveries)
        else:
            self._files_gone(command.deliveries)

    def _files_gone(self, deliveries: Sequence[Delivery]) -> None:
        self._server.discard([d.result.payload for d in deliveries])

    def _tell_accepted(self, command: c.TellAccepted) -> None:
        session = self._server.sessions.get(command.client)
        if session is not None:
            session.send(m.Accepted(list(command.ids)))

    def _tell_refused(self, command: c.TellRefused) -> None:
        session = self._server.sessions.get(command.client)
        self._server.watches.unwatch(command.ids)
        self._server.tally.refused(command)
        if session is not None:
            session.send(m.RefusedCalls(list(command.ids), command.error))

    def _persist_accepted(self, command: c.PersistAccepted) -> None:
        calls = list(command.calls)
        for call in calls:
            self._seq += 1
            call.seq = self._seq
        wall = self._server.wall_offset
        loads = [call.payload for call in calls]
        self._write(command.token, loads, lambda: [self._accepted_row(call, wall) for call in calls])

    def _write(self, token: int, loads: Sequence[Payload], rows: Callable[[], Sequence[Write]]) -> None:
        """Have rows written, once the files that they name are kept wherever they have to be."""
        if self._keeping is None:
            self._writer.write(token, rows)
        else:
            self._keeping.before(token, loads, lambda: self._writer.write(token, rows))

    def _accepted_row(self, call: Call, wall: float) -> AcceptedRow:
        data, name = self._files.persist(call.payload)
        origin = self.origins.get(call.id, _NO_ORIGIN)
        return AcceptedRow(
            seq=call.seq,
            id=call.id,
            function=call.pool.key,
            client=call.client,
            priority=call.priority,
            created=call.created + wall,
            deadline=None if call.deadline is None else call.deadline + wall,
            payload=data,
            payload_blob=name,
            parent=call.parent,
            tags=call.pool.options.tags,
            method=call.method,
            trace=call.trace,
            request=origin.request,
            digest=origin.digest,
        )

    def _persist_settled(self, command: c.PersistSettled) -> None:
        wall = self._server.wall_offset
        settlements = list(command.settlements)
        if command.beside:
            self._server.owe_beside(command.token, command.beside)
        loads = [settlement.result.payload for settlement in settlements]
        self._write(command.token, loads, lambda: [self._settled_row(s, wall) for s in settlements])

    def _settled_row(self, settlement: Settlement, wall: float) -> SettledRow:
        call, result = settlement.call, settlement.result
        data, name = self._files.persist(result.payload)
        return SettledRow(
            seq=call.seq,
            id=call.id,
            state=settlement.state,
            finished=settlement.finished + wall,
            attempts=call.attempt,
            payload=data,
            payload_blob=name,
            error=result.error,
            timeline=_timeline(settlement.timeline, wall),
            status=status_of(result, data, name, self._files) if call.client.startswith(HTTP_SESSIONS) else 0,
        )

    def _persist_progress(self, command: c.PersistProgress) -> None:
        wall = self._server.wall_offset
        rows = [
            ProgressRow(
                x.seq, x.failures, _losses(x), x.not_before + wall, _timeline(x.history, wall) if x.history else ""
            )
            for x in command.calls
        ]
        self._writer.write(command.token, lambda: rows)

    def _discard(self, command: c.Discard) -> None:
        self._server.discard(command.payloads)

    def _start_worker(self, command: c.StartWorker) -> None:
        self._start_all([command])

    def _start_gang(self, command: c.StartGang) -> None:
        self._start_all(command.workers)

    def _start_all(self, orders: Sequence[c.StartWorker]) -> None:
        """Start workers on grants that there is room for together, or refuse every one."""
        grants = self._engine.reserve(
            [Bundle(order.capacity.cpus, order.capacity.memory, node=order.node) for order in orders]
        )
        if not grants:
            why = self._engine.trouble or "Its node has no room just now: other programs hold it, or its agent is away."
            error = ErrorInfo("Overloaded", why)
            self._server.later(*(e.WorkerRefused(order.worker, error, retry=True) for order in orders))
            return
        for order, grant in zip(orders, grants, strict=True):
            self.grants[order.worker] = grant
            self._engine.start(grant, WorkerSpec(order.worker, order.spec, self._tokens.token(order.worker)))

    def release(self, worker: str) -> None:
        """Give back what an ended worker held."""
        grant = self.grants.pop(worker, None)
        if grant is not None:
            self._engine.release(grant)

    def _drain_worker(self, command: c.DrainWorker) -> None:
        self._server.worker_links(command.worker).say(m.Drain(command.reason))

    def _stop_worker(self, command: c.StopWorker) -> None:
        self._engine.stop(command.worker, grace=command.grace, reason=command.reason)

    def _open_channel(self, command: c.OpenChannel) -> None:
        self._server.worker_links(command.worker).say(m.OpenChannel(command.channel, command.client))

    def _close_channel(self, command: c.CloseChannel) -> None:
        self._server.worker_links(command.worker).say(m.CloseChannel(command.channel))

    def _tell_channel(self, command: c.TellChannel) -> None:
        session = self._server.sessions.get(command.client)
        if session is not None:
            session.send(m.Channel(command.function, command.channel, command.address, command.key))

    def _lend(self, command: c.LendCpus) -> None:
        grant = self.grants.get(command.worker)
        if grant is not None:
            self._engine.lend(grant, lent=command.lent)

    def _set_window(self, command: c.SetWindow) -> None:
        session = self._server.sessions.get(command.client)
        if session is not None:
            session.send(m.Window(command.function, command.size))

    def _tell_took_over(self, command: c.TellTookOver) -> None:
        self._server.functions.generation += 1  # its endpoints are its own from now on
        self._server.loop.call_soon(self._end_lingering)  # the core decides that once this is done

    def _end_lingering(self) -> None:
        self._server.functions.end_lingering()
        self._server.flush()

    def _tell_trial_failed(self, command: c.TellTrialFailed) -> None:
        self._server.run(self._server.verbs.trial_failed(command.key, command.why), name="stop a version on trial")

    def _tell_phase(self, command: c.TellPhase) -> None:
        self._server.news.phase(command.key, command.phase, command.detail)


def _losses(call: Call) -> int:
    """Return a call's losses as they are written down: one that must not run twice is lost while it is leased."""
    leased = call.state is CallState.LEASED and not call.pool.options.lost_retries
    return call.losses + leased


def _timeline(entries: Sequence[tuple[float, str, str]], wall: float) -> str:
    return msgspec.json.encode([(at + wall, event, detail) for at, event, detail in entries]).decode()


def error_info(error: StokerError) -> ErrorInfo:
    """Return an error of Stoker's own as it travels."""
    return ErrorInfo(type(error).__name__, str(error), fields=error.fields)

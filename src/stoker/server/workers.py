"""Workers: their two connections, and what they report."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stoker.core import events as e
from stoker.core.calls import Call, Payload, Result, Segment
from stoker.core.commands import PersistSettled
from stoker.errors import ProtocolError, StokerError
from stoker.protocol import messages as m
from stoker.protocol.input_messages import AskInputs
from stoker.server import payloads
from stoker.server.execution import error_info
from stoker.server.link import Link
from stoker.server.spool import Spool
from stoker.types import GangSeat, Outcome

if TYPE_CHECKING:
    from stoker.server.server import Server

GONE_MAX = 10_000
_ANSWERS = set(map(int, Outcome))


@dataclass(slots=True, eq=False)
class WorkerLinks:
    """A worker's two links. What is said on the control link while it is not there yet waits for it."""

    worker: str
    leases: Link | None = None
    control: Link | None = None
    waiting: deque[Any] = field(default_factory=deque)
    seen: int = 0  # the last Results.seq that is safe
    told: int = 0  # the last one that the worker was told is
    owed: dict[int, set[int]] = field(default_factory=dict)  # Results.seq → store writes that must come first
    heard: int = 0  # the last Results.seq received
    unkept: dict[str, StokerError] = field(default_factory=dict)  # payloads that came and found no room
    fresh: set[str] = field(default_factory=set)  # payloads that came and are not yet named

    def lease(self, calls: Sequence[Call], *, seat: GangSeat | None = None) -> None:
        if self.leases is None:
            return  # it has gone meanwhile; what it was to be sent is queued again when that is told
        sizes, segments, parts = payloads.pack(call.payload for call in calls)
        credits = [call.upto for call in calls]  # 0 of what is no stream
        self.told = self.seen
        message = m.Lease(
            ids=[call.id for call in calls],
            attempts=[call.attempt for call in calls],
            sizes=sizes,
            segments=segments,
            credits=credits if any(credits) else [],
            acked=self.seen,
            gang=seat,
            traces=[call.trace for call in calls] if any(call.trace for call in calls) else [],
            methods=[call.method for call in calls] if calls[0].pool.mixture is not None else [],
        )
        self.leases.send(message, parts)

    def say(self, message: Any) -> None:
        """Send on the control link, now or when it is there."""
        if self.control is not None:
            self.control.send(message)
        else:
            self.waiting.append(message)

    def settle(self) -> None:
        """Work out up to which frame everything is safe."""
        self.seen = max(self.seen, min(self.owed) - 1 if self.owed else self.heard)

    def acknowledge(self) -> None:
        """Tell the worker, unless a lease has told it already."""
        if self.seen > self.told and self.leases is not None:
            self.told = self.seen
            self.leases.send(m.Ack(self.seen))


class GoneLinks:
    """Links of workers whose node was given up, the first of them first, for those that come back.

    They send again what they were not told that the server has. It is known by its number: taken for something new it
    would be dropped as the answer to a call that is settled, and with it the file that the settled result lies in.
    """

    def __init__(self) -> None:
        self._links: dict[str, WorkerLinks] = {}

    def __contains__(self, worker: str) -> bool:
        return worker in self._links

    def keep(self, links: WorkerLinks) -> None:
        links.leases = links.control = None
        links.waiting.clear()
        self._links[links.worker] = links
        while len(self._links) > GONE_MAX:
            del self._links[next(iter(self._links))]

    def take(self, worker: str) -> WorkerLinks | None:
        return self._links.pop(worker, None)


class WorkerPeer:
    """What a worker's lease socket brings."""

    def __init__(self, server: Server, links: WorkerLinks, link: Link) -> None:
        self._server = server
        self._links = links
        self._link = link
        self._worker = links.worker

    def received(self, message: Any, body: memoryview) -> None:
        if isinstance(message, m.Results):
            self._check_names(message.segments)
            self._results(message, body)
        elif isinstance(message, m.Items):
            self._check_names(message.segments)
            loads = payloads.unpack(message.sizes, message.segments, body)
            again = self._read_before(message, loads)
            self._server.decide(e.ItemsCame(self._worker, message.id, message.attempt, message.first, loads))
            self._server.discard(again)
        elif isinstance(message, AskInputs):
            self._server.feeds.asked(self._worker, message, self._link)
        elif isinstance(message, m.Held):
            _check_columns(message)
            held = list(zip(message.ids, message.attempts, strict=True))
            ages = dict(zip(message.ids, message.ages, strict=False))
            self._server.tally.connecting(self._worker)
            self._server.decide(e.WorkerConnected(self._worker, held, message.gang, self._link.is_remote, ages))
        elif isinstance(message, m.PutSegment) and self._link.is_remote and message.sizes == [len(body)]:
            with Spool(self._server.files, self._worker, size=len(body)) as spool:
                spool.add(len(body), body)
                self._put_segment(message, spool)
        elif isinstance(message, m.ChannelClosed):
            _check_columns(message)
            event = e.ChannelClosed(self._worker, message.channel, message.ids, message.attempts, message.answered)
            self._server.decide(event)
        else:
            raise ProtocolError(f"A worker does not send {type(message).__name__} on its lease socket.")

    def received_in_parts(self, message: Any, spool: Spool) -> None:
        """Take a big payload, which the worker will name next."""
        with spool:
            if not isinstance(message, m.PutSegment) or message.sizes != [spool.size]:
                raise ProtocolError(f"A body of {spool.size} bytes in parts does not belong to this message.")
            self._put_segment(message, spool)

    def _read_before(self, message: m.Items, loads: list[Payload]) -> list[Payload]:
        """Return what a worker elsewhere has sent again, though its reader was sent it before: it has read and deleted
        those, or they would be here still."""
        call = self._server.plane.state.calls.get(message.id)
        sent = call.yielded[1] if call is not None and call.yielded and call.yielded[0] == message.attempt else 0
        named = enumerate(loads, message.first)
        fresh = [(i, load) for i, load in named if isinstance(load, Segment) and load.name in self._links.fresh]
        self._links.fresh.difference_update(load.name for _, load in fresh)
        return [load for i, load in fresh if i < sent]

    def _check_names(self, segments: m.Segments) -> None:
        """One that comes over the network hands on payloads of its own only: others' are not its to give or to end."""
        if self._link.is_remote:
            for described in segments.values():
                self._check_name(str(described[0]) if described else "")

    def _check_name(self, name: str) -> None:
        number = name.removeprefix(f"r-{self._worker}-")
        if number == name or not (number.isascii() and number.isdigit()):
            raise ProtocolError(f"{name!r:.80} is no name of a payload of worker {self._worker}.")

    def _put_segment(self, message: m.PutSegment, spool: Spool) -> None:
        """Keep a payload under the name that its worker gave it, unless it was sent again and is here."""
        name = message.name
        self._check_name(name)
        if spool.failure is not None:
            self._links.unkept[name] = spool.failure
        elif not 0 < message.seq <= self._links.heard and not self._server.files.has(Segment(name, spool.size)):
            spool.keep_as(name)
            self._links.fresh.add(name)

    def _results(self, message: m.Results, body: memoryview) -> None:
        loads = payloads.unpack(message.sizes, message.segments, body)
        results = _results_of(message, loads)
        if message.printed:
            results = _with_printed(results, set(message.printed))
        server, links = self._server, self._links
        server.to_acknowledge.add(links)
        if message.seq <= links.heard:
            links.told = 0  # sent again after a reconnect: it is told again how far we are
            return
        if message.segments:
            self._links.fresh.difference_update(load.name for load in loads if isinstance(load, Segment))
            # One whose file is gone could be neither stored nor opened: the attempt counts as lost.
            gone = {i for i, load in enumerate(loads) if isinstance(load, Segment) and not server.files.has(load)}
            results = [self._gone(loads[i]) if i in gone else result for i, result in enumerate(results)]
        if message.segments and server.epoch > 1:
            # Sent again after a restart; of calls that were settled before it, the store names these very files.
            settled = server.settled_before(message.ids)
            if settled:
                results = [
                    result._replace(payload=b"") if call_id in settled else result
                    for call_id, result in zip(message.ids, results, strict=True)
                ]
        if message.batches:
            server.tally.batched(message)
        commands = server.handle(e.AttemptsEnded(self._worker, message.ids, message.attempts, results))
        links.heard = message.seq
        tokens = {command.token for command in commands if isinstance(command, PersistSettled)}
        if tokens:
            server.owe(links, message.seq, tokens)
        links.settle()
        server.execute(commands)

    def _gone(self, load: Payload) -> Result:
        """Return how an attempt ended whose payload is not here: by the reason that it was not kept, or as lost."""
        unkept = self._links.unkept.pop(load.name, None) if isinstance(load, Segment) else None
        return Result(Outcome.CANCELLED) if unkept is None else Result(Outcome.UNSENDABLE, error=error_info(unkept))

    def closed(self) -> None:
        if self._links.leases is self._link:
            self._links.leases = None
            self._server.decide(e.WorkerDisconnected(self._worker))
            self._server.said_its_last(self._worker)


def _check_columns(message: m.Held | m.Revoked | m.ChannelClosed) -> None:
    if len(message.ids) != len(message.attempts):
        raise ProtocolError(f"The columns of a {type(message).__name__} do not belong together.")


def _results_of(message: m.Results, loads: list[Payload]) -> list[Result]:
    count = len(message.ids)
    columns = (message.outcomes, message.attempts, message.seconds, loads)
    if any(len(column) != count for column in columns) or not set(message.outcomes) <= _ANSWERS:
        raise ProtocolError("The columns of a Results do not belong together.")
    if not message.errors and not any(message.outcomes):
        value = Outcome.VALUE
        return [Result(value, load, None, took) for load, took in zip(loads, message.seconds, strict=True)]
    errors = message.errors
    return [
        Result(Outcome(outcome), load, errors.get(str(i)), took)
        for i, (outcome, load, took) in enumerate(zip(message.outcomes, loads, message.seconds, strict=True))
    ]


def _with_printed(results: list[Result], printed: set[int]) -> list[Result]:
    return [result._replace(printed=True) if i in printed else result for i, result in enumerate(results)]


class ControlPeer:
    """What a worker's control socket brings."""

    def __init__(self, server: Server, links: WorkerLinks, link: Link) -> None:
        self._server = server
        self._links = links
        self._link = link

    def received(self, message: Any, body: memoryview) -> None:
        worker, server = self._links.worker, self._server
        if isinstance(message, m.Revoked):
            _check_columns(message)
            server.decide(e.LeasesRevoked(worker, message.ids, message.attempts))
        elif isinstance(message, m.ChannelOpened):
            server.decide(e.ChannelOpened(worker, message.channel, message.address, message.key))
        elif isinstance(message, m.ChannelUsed):
            self._used(message)
        elif isinstance(message, m.StartFailed) and message.worker == worker:
            server.tally.start_failed(worker)
            server.decide(e.WorkerRefused(worker, message.error))
            self._link.close()  # which tells it that it may end
        elif isinstance(message, m.RankGathered):
            server.decide(e.RankGathered(worker, message.id, message.attempt, message.port, message.installed))
        elif isinstance(message, m.Checked):
            server.decide(e.WorkerChecked(worker, message.error))
        else:
            raise ProtocolError(f"A worker does not send {type(message).__name__} on its control socket.")

    def _used(self, message: m.ChannelUsed) -> None:
        columns = (message.outcomes, message.seconds, message.finished, message.methods or message.ids)
        if any(len(column) != len(message.ids) for column in columns) or not set(message.outcomes) <= _ANSWERS:
            raise ProtocolError("The columns of a ChannelUsed do not belong together.")
        server = self._server
        worker = server.plane.state.workers.get(self._links.worker)
        channel = server.plane.state.channels.get(message.channel)
        if worker is not None:
            server.tally.used(message, worker.pool)
        if worker is not None and channel is not None:
            server.records.add_direct(message, worker=worker, client=channel.client, wall=server.wall_offset)
        server.decide(e.ChannelUsed(self._links.worker, message.channel, message.outcomes, message.seconds))

    def closed(self) -> None:
        if self._links.control is self._link:
            self._links.control = None

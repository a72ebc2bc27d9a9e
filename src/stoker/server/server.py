"""The server: feeds what happens to the core, and has what the core decides carried out. One asyncio process."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from stoker._version import __version__
from stoker.blobs.base import BlobStore
from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import Payload, Segment
from stoker.core.placement import Capacity
from stoker.core.plane import CallPlane
from stoker.core.unmet import unmet
from stoker.engine import base as engine_base
from stoker.engine.base import Engine
from stoker.errors import NotFound, PermissionDenied, StokerError, VersionMismatch
from stoker.protocol import messages as m
from stoker.server import kept_sweeps, orphans, restart, token_limits
from stoker.server.agent_peer import AgentPeer
from stoker.server.agreed_locks import AgreedLocks
from stoker.server.callbacks import Callbacks
from stoker.server.client_processes import ClientProcesses
from stoker.server.client_tokens import ClientTokens
from stoker.server.config import ServerConfig
from stoker.server.early_cancels import EarlyCancels
from stoker.server.execution import Executor, error_info
from stoker.server.feeds import Feeds
from stoker.server.functions import Functions
from stoker.server.hosts import Hosts
from stoker.server.kept_payloads import Keeping
from stoker.server.link import Link, Peer, close_all
from stoker.server.metrics.tally import Tally
from stoker.server.news import News
from stoker.server.node_data import NodeCopies, NodePeer
from stoker.server.payloads import PayloadFiles
from stoker.server.records import Records
from stoker.server.sessions import ClientPeer, Session
from stoker.server.shadows import Shadows
from stoker.server.spool import Spool
from stoker.server.tokens import NodeTokens, WorkerTokens, kept_secret
from stoker.server.traffic import Traffic
from stoker.server.verbs import Verbs
from stoker.server.watching import Watches
from stoker.server.web_records import WebRecords
from stoker.server.workers import ControlPeer, GoneLinks, WorkerLinks, WorkerPeer
from stoker.server.writer import StoreWriter
from stoker.store.base import Store
from stoker.types import ErrorInfo, FunctionSpec, Growth

if TYPE_CHECKING:
    from stoker.server.doors import TcpDoor
    from stoker.server.gateway.http_door import HttpDoor
    from stoker.server.remote_link import RemoteLink
    from stoker.server.spans import Spans

log = logging.getLogger(__name__)

ACK_SECONDS = 0.02  # a worker keeps its results so much longer; a lease that comes first carries the word
POOL_BYTES = 256 << 20  # of deleted segments: writing over them is three times as fast as into fresh memory
POOL_SECONDS = 5.0  # without big payloads, after which their memory goes back to the system
LAST_WORDS_SECONDS = 0.2  # for the socket of a worker that has ended to be read to its end
NODE_LEASE_SECONDS = 30.0  # how long a restarted server waits for a node's report before it leases anything
DEMAND_SECONDS = 1.0  # how soon an engine that can grow is told what waits for room
RETENTION_SWEEP_SECONDS = 600.0
KNOWN_MAX = 1000  # calls that a greeting names: more big inputs than a map has open; the rest is sent again


@dataclass(eq=False)
class Server:
    """See the module. Everything here runs on the loop; `StoreWriter` and the file thread are the only others."""

    config: ServerConfig
    store: Store
    blobs: BlobStore
    engine: Engine
    epoch: int
    payload_blobs: BlobStore | None = None  # where copies of stored calls' payload files are kept, if not here alone
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    sessions: dict[str, Session] = field(default_factory=dict)
    links: set[Link] = field(default_factory=set)
    unsent: list[Link] = field(default_factory=list)
    to_acknowledge: set[WorkerLinks] = field(default_factory=set)
    usage: dict[str, tuple[float, int]] = field(default_factory=dict)
    pids: dict[str, tuple[int, str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.started = time.time()
        now = self.loop.time()
        # Added to the core's times it makes Unix ones. Not by the loop's time: that stands still within this long turn.
        self.wall_offset = time.time() - time.monotonic()
        self.plane = CallPlane(prefix=f"w{self.epoch}-", growth=self.engine.growth, now=now)
        self.client_processes = ClientProcesses(self.client_ended)
        secret = kept_secret(self.config.state_dir / "worker.secret")
        self.tokens, self.node_tokens = WorkerTokens(secret), NodeTokens(secret)
        self.client_tokens = ClientTokens(self.config.state_dir / "tokens.json")
        self.door: TcpDoor | None = None
        self.http: HttpDoor | None = None
        self.no_http = "it was started with --http off (STOKER_HTTP=off)"  # why there is none
        self.spans: Spans | None = None  # where traces are asked for
        self.files = PayloadFiles(
            self.config.segments, self.config.spill, pool_bytes=POOL_BYTES, blobs=self.payload_blobs
        )
        self.file_thread = ThreadPoolExecutor(1, thread_name_prefix="payload-files")
        self.writer = StoreWriter(
            self.store, self.epoch, done=self._persisted, failed=self._persist_failed, over=self._store_over
        )
        kept = self.files.kept
        self.keeping = Keeping(kept, run=self.run, failed=self._persist_failed) if kept is not None else None
        self.executor = Executor(
            self,
            engine=self.engine,
            writer=self.writer,
            files=self.files,
            tokens=self.tokens,
            seq=self.store.last_seq(),
            keeping=self.keeping,
        )
        self.functions = Functions(self.store, self.decide, keep=self._keep_function, is_used=self._is_used)
        self.functions.pools = self.plane.state.pools
        self.tally, self.news = Tally(self), News(self)
        self.traffic, self.shadows = Traffic(self), Shadows(self)
        self.copies, self.locks = NodeCopies(), AgreedLocks(self.blobs)
        self.feeds = Feeds(self)
        self.records, self.web_records, self.hosts = Records(), WebRecords(), Hosts(self.engine)
        self.early_cancels = EarlyCancels()
        self.watches, self.callbacks = Watches(self), Callbacks(self)
        self.verbs = Verbs(self)
        self._resubmissions_end = now + self.plane.state.limits.client_grace if self.epoch > 1 else 0.0
        self._links: dict[str, WorkerLinks] = {}
        self._gone_links = GoneLinks()
        self._owed: dict[int, tuple[WorkerLinks, int]] = {}
        self._downs: dict[str, engine_base.WorkerDown] = {}  # ended workers whose socket is not yet read to its end
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._ack_timer: asyncio.TimerHandle | None = None
        self._held: list[e.Event] | None = None  # events that are decided together
        self._pool_timer: asyncio.TimerHandle | None = None
        self._new_agent = True

    # The core

    def now(self) -> float:
        return self.loop.time()

    def handle(self, *events: e.Event) -> list[c.Command]:
        return self.plane.handle(events, self.loop.time())

    def execute(self, commands: Sequence[c.Command]) -> None:
        self.executor.execute(commands)

    def decide(self, *events: e.Event) -> None:
        """Feed events to the core and carry out what it decides; frames go out with the next `flush`."""
        if self._held is not None:
            self._held.extend(events)
            return
        self.executor.execute(self.plane.handle(events, self.loop.time()))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Feed what is decided within to the core at once, at the end: it starts nothing in between."""
        self._held = held = list[e.Event]()
        try:
            yield
        finally:
            self._held = None
            self.decide(*held)

    def later(self, *events: e.Event) -> None:
        """Feed events once the present one is dealt with."""
        self.loop.call_soon(self._decide_and_flush, *events)

    def _decide_and_flush(self, *events: e.Event) -> None:
        self.decide(*events)
        self.flush()

    def flush(self) -> None:
        """Write what was sent, and set the timer for when the core wants to be asked again."""
        if self.to_acknowledge and self._ack_timer is None:
            self._ack_timer = self.loop.call_later(ACK_SECONDS, self._acknowledge)
        if self.unsent:
            unsent, self.unsent = self.unsent, []
            for link in unsent:
                link.flush()
        self._set_timer()

    def _acknowledge(self) -> None:
        """Tell workers what is safe, unless a lease has told them meanwhile: an idle worker is not woken for it."""
        self._ack_timer = None
        for links in self.to_acknowledge:
            links.acknowledge()
        self.to_acknowledge.clear()
        self.flush()

    def _set_timer(self) -> None:
        at = self.plane.next_wakeup()
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._decide_and_flush(e.Tick())

    # Greetings

    def greeted(self, link: Link, hello: m.Hello) -> Peer:
        """Admit a peer; see `stoker.server.link.Greeter`."""
        if hello.version.split(".")[:2] != __version__.split(".")[:2]:
            raise VersionMismatch(
                f"The {hello.role} is Stoker {hello.version}, this server is Stoker {__version__}. Install the same "
                "version on both sides, or restart the server with `stoker server stop` and `stoker server start`."
            )
        if link.is_remote and not link.holder:
            raise PermissionDenied("Nobody is let in over TCP without a token.")
        roles = {
            "client": self._client,
            "agent": self._agent,
            "worker": self._worker,
            "control": self._control,
            "node": self._node,
        }
        if hello.role not in roles:
            raise PermissionDenied(f"There is no role {hello.role!r}.")
        return roles[hello.role](link, hello)

    def _welcome(self, link: Link, client: Session | None = None) -> m.Welcome:
        remote = link.is_remote
        return m.Welcome(
            version=__version__,
            server=self.config.name,
            term=self.epoch,
            segments="" if remote else str(self.files.segments),
            spill="" if remote else str(self.files.spill),
            grace=self.plane.state.limits.client_grace,
            connection=client.connection if client is not None else 0,
            known=self._known_to(client) if client is not None else [],
            freeze=client is not None and (remote or self.engine.growth is not Growth.NEVER),
        )

    def _agent(self, link: Link, hello: m.Hello) -> Peer:
        if link.uid not in {-1, os.getuid()}:
            raise PermissionDenied("An agent runs as the server's own user.")
        link.send(self._welcome(link))
        return AgentPeer(self, link, hello)

    def _node(self, link: Link, hello: m.Hello) -> Peer:
        if not link.is_remote:
            raise PermissionDenied("A node on this machine shares its files with the server, and is sent none.")
        link.send(self._welcome(link))
        return NodePeer(self, cast("RemoteLink", link), hello.name)

    def _worker(self, link: Link, hello: m.Hello) -> Peer:
        links = self._links_of(hello)
        link.send(self._welcome(link))
        link.held_back = False
        links.leases = link
        return WorkerPeer(self, links, link)

    def _control(self, link: Link, hello: m.Hello) -> Peer:
        links = self._links_of(hello)
        link.send(self._welcome(link))
        links.control = link
        while links.waiting:
            link.send(links.waiting.popleft())
        return ControlPeer(self, links, link)

    def _links_of(self, hello: m.Hello) -> WorkerLinks:
        if self.tokens.worker_of(hello.token) != hello.name:
            raise PermissionDenied(f"The token is not that of worker {hello.name!r}.")
        state = self.plane.state
        if state.recovering_until is not None and hello.name not in state.workers:
            # It was quicker than its node to find the server again; told to drain, it would end. It will try again.
            raise NotFound(f"This server was restarted and has not heard yet of worker {hello.name!r}. Try again.")
        if hello.name in self._gone_links and hello.name not in state.workers:
            raise NotFound(f"This server has not heard again yet from the node of worker {hello.name!r}. Try again.")
        return self.worker_links(hello.name)

    def _client(self, link: Link, hello: m.Hello) -> Peer:
        if not hello.token and link.uid not in {-1, os.getuid()}:
            raise PermissionDenied("This server serves its own user only.")
        owner = self._owner_of(link, hello)
        session = self.sessions.get(hello.name)
        if session is None:
            # A worker elsewhere opens segments too, once its agent has brought them.
            files = self.files if link.is_remote and not owner else None
            session = self.sessions[hello.name] = Session(hello.name, owner, link.holder, link.is_remote, files)
            if hello.term or self.now() < self._resubmissions_end:
                # It may have been here before: in an earlier term, or until it was away for so long as to be forgotten.
                session.resubmits_until = self.now() + self.plane.state.limits.client_grace
        elif (session.owner, session.holder) != (owner, link.holder):
            raise PermissionDenied("The session belongs to somebody else.")
        if session.link is not None:
            session.link.close()
        session.link = link
        session.left_at = 0.0
        self.client_processes.watch(session.name, link.pid)
        peer = ClientPeer(self, session, link)
        if hello.connection == session.connection:
            peer.acknowledged(hello.seen)
        session.connection += 1
        link.send(self._welcome(link, session))
        session.resend()
        self.decide(e.ClientCame(session.name))
        return peer

    def _owner_of(self, link: Link, hello: m.Hello) -> str:
        """Return the worker whose client this is; empty for a program's."""
        if link.is_remote:
            return link.holder.removeprefix("worker:") if link.holder.startswith("worker:") else ""
        return self.tokens.worker_of(hello.token) if hello.token else ""

    def _known_to(self, session: Session) -> list[str]:
        """Return attached calls that a client over TCP need not send again: big ones, and those that have ended."""
        if not session.is_remote:
            return []
        calls = self.plane.state.by_client.get(session.name, {}).values()
        big = [call.id for call in calls if isinstance(call.payload, Segment)]
        return [*big, *(delivery.id for delivery in session.outbox.owed())][:KNOWN_MAX]

    # Clients

    def client_gone(self, session: Session) -> None:
        """A client's connection closed: it may come back within the grace."""
        session.link = None
        session.left_at = self.now()
        final = bool(session.owner) and session.owner not in self.plane.state.workers
        self.decide(e.ClientLeft(session.name, final=final))
        if final:
            self.forget(session)
        else:
            self.loop.call_later(self.plane.state.limits.client_grace, self._forget_if_away, session, session.left_at)

    def client_ended(self, name: str) -> None:
        """A client's process has ended: it does not come back."""
        session = self.sessions.get(name)
        if session is None:
            return
        link, session.link = session.link, None
        if link is not None:
            link.close()
        self.decide(e.ClientLeft(name, final=True))
        self.forget(session)
        self.flush()

    def _forget_if_away(self, session: Session, left_at: float) -> None:
        if session.link is None and session.left_at == left_at:
            self.forget(session)
            self.flush()

    def forget(self, session: Session) -> None:
        """A client will not come back: drop what it was owed, and end its runs."""
        self.sessions.pop(session.name, None)
        self.client_processes.forget(session.name)
        owed = session.outbox.clear()
        self.discard([d.result.payload for d in owed if d.call is not None and not d.call.detached])
        for call_id in list(session.streams):
            self.discard(session.close_stream(call_id))
        self.functions.retire_runs(session.runs, held=[other.runs for other in self.sessions.values()])

    def not_accepted_before(
        self, session: Session, ids: list[str], loads: list[Payload]
    ) -> tuple[list[str], list[Payload]]:
        """Return the calls that no earlier term accepted; the others are acknowledged, and watched."""
        known = self.store.known([call_id for call_id in ids if call_id not in self.plane.state.calls])
        if not known:
            return ids, loads
        session.send(m.Accepted(sorted(known)))
        self.watches.watch(session, sorted(known))
        fresh = [i for i, call_id in enumerate(ids) if call_id not in known]
        return [ids[i] for i in fresh], [loads[i] for i in fresh]

    def settled_before(self, ids: Sequence[str]) -> set[str]:
        """Return those of these calls that the store knows as settled, and nobody here knows any more."""
        known = self.store.known([call_id for call_id in ids if call_id not in self.plane.state.calls])
        records = {call_id: self.store.call(call_id) for call_id in known}
        return {call_id for call_id, record in records.items() if record is not None and record.settled is not None}

    def answer(self, session: Session, link: Link, request: m.Request) -> None:
        """Answer a request, at once or when what it asks for is done."""
        self.run(self._answer(session, link, request), name=f"request {request.verb}")

    async def _answer(self, session: Session, link: Link, request: m.Request) -> None:
        failure = f"The server failed to answer {request.verb!r}; its log says why."
        reply: m.Reply | None = m.Reply(request.id, error=ErrorInfo(StokerError.__name__, failure))
        try:
            reply = m.Reply(request.id, await self.verbs.answer(session, request))
        except StokerError as error:
            reply = m.Reply(request.id, error=error_info(error))
        except asyncio.CancelledError:
            reply = None  # this server ends: the next one is asked again, and knows what was done
            raise
        finally:  # whatever else it was: who asked waits for an answer
            if reply is not None:
                link.send(reply)
                self.flush()

    def put_blob(self, link: Link, message: m.PutBlob, body: bytes | Spool) -> None:
        self.run(self.verbs.put_blob(link, message, body), name="put blob")

    # Workers and nodes

    def worker_links(self, worker: str) -> WorkerLinks:
        links = self._links.get(worker)
        if links is None:
            links = self._links[worker] = self._gone_links.take(worker) or WorkerLinks(worker)
        return links

    def owe(self, links: WorkerLinks, seq: int, tokens: set[int]) -> None:
        """A worker's frame is acknowledged once these writes are durable."""
        links.owed[seq] = tokens
        for token in tokens:
            self._owed[token] = (links, seq)

    def engine_event(self, event: engine_base.Event) -> None:
        """Take what the engine tells; its listener."""
        self.tally.engine_event(event)
        if isinstance(event, m.LogLines):
            self.news.lines(event)
        elif isinstance(event, engine_base.WorkerDown) and self._speaks(event.worker):
            self._downs[event.worker] = event
            self.decide(e.WorkerDisconnected(event.worker))  # it is leased nothing more
            self.loop.call_later(LAST_WORDS_SECONDS, self.said_its_last, event.worker)
        elif isinstance(event, engine_base.UsageReported):
            self.usage.update(zip(event.workers, zip(event.cpu_seconds, event.memory, strict=True), strict=True))
            self._decide_and_flush(e.WorkersMeasured(event.workers, event.memory))
        else:
            for translated in self._translated(event):
                self.decide(translated)
        self.flush()

    def _hang_up(self, worker: str) -> None:
        links = self._links.get(worker)
        for link in (links.leases, links.control) if links is not None else ():
            if link is not None:
                link.close()

    def _speaks(self, worker: str) -> bool:
        """Tell whether results of a worker that has ended may still lie in its socket: its agent was quicker."""
        links = self._links.get(worker)
        return links is not None and links.leases is not None

    def said_its_last(self, worker: str) -> None:
        """A worker that has ended is heard to the end: what it had finished is not run again."""
        event = self._downs.pop(worker, None)
        if event is not None:
            self._hang_up(worker)  # one whose agent was lost may live: it comes again, and is told what it is
            for translated in self._translated(event):
                self.decide(translated)
            self.flush()

    def _translated(self, event: engine_base.Event) -> list[e.Event]:
        if isinstance(event, engine_base.NodeJoined):
            return [self._node_joined(event)]
        if isinstance(event, engine_base.NodeChanged):
            return [
                e.NodeReported(
                    event.node.node,
                    *self._sizes(event.node),
                    self._running_on(event.node.node),
                    anew=False,
                    address=event.node.address,
                )
            ]
        if isinstance(event, engine_base.NodeLost):
            log.warning("node %s is away: %s", self.hosts.named(event.node), event.reason)
            return []
        if isinstance(event, engine_base.NodeGone):
            return self._node_gone(event)
        if isinstance(event, engine_base.GrowthChanged):
            return [e.GrowthChanged(event.growth)]
        if isinstance(event, engine_base.NodeDraining):
            log.warning(
                "node %s is taken away in %.0f s: %s", self.hosts.named(event.node), event.seconds, event.reason
            )
            return [e.NodeDraining(event.node, event.reason)]
        if isinstance(event, engine_base.WorkerUp):
            self.pids[event.worker] = (event.pid, event.how, time.time())
            if (grant := self.executor.grants.get(event.worker)) is not None:
                self.hosts.note(event.worker, grant.node)
            return [e.WorkerProgress(event.worker, "started")]
        if isinstance(event, engine_base.WorkerDown):
            self._worker_ended(event.worker)
            said = list(zip(event.calls, event.texts, strict=True))
            return [e.WorkerGone(event.worker, event.cause, event.detail, said)]
        if isinstance(event, engine_base.StartRefused):
            self._worker_ended(event.worker)
            return [e.WorkerRefused(event.worker, event.error, event.retry)]
        if isinstance(event, engine_base.PhaseChanged):
            return [e.WorkerProgress(event.worker, event.phase, event.detail)]
        return []

    def _is_used(self, key: str) -> bool:
        pool = self.plane.state.pools.get(key)
        return pool is not None and bool(pool.workers or pool.awaits)

    def _node_joined(self, event: engine_base.NodeJoined) -> e.NodeReported:
        workers = []
        for running in event.workers:
            self.functions.ensure(running.function)
            self.executor.grants[running.worker] = running.grant
            self.pids.setdefault(running.worker, (running.pid, "", running.began))
            self.hosts.note(running.worker, event.node.node)
            capacity = Capacity(running.grant.cpus, running.grant.memory)
            workers.append((running.worker, running.function, capacity))
        if workers:
            self.loop.call_soon(self._retire_outdated)  # once the core knows of them
        node = event.node
        if self.engine.growth is not Growth.NEVER:
            log.info("node %s is here, with %d workers", self.hosts.named(node.node), len(workers))
        return e.NodeReported(node.node, *self._sizes(node), workers, starting=event.starting, address=node.address)

    def _retire_outdated(self) -> None:
        self.decide(*self.functions.outdated_pools())
        self.flush()

    def _node_gone(self, event: engine_base.NodeGone) -> list[e.Event]:
        """What ran there counts as lost. Should the node come back, its workers come with it, as new ones."""
        log.warning("node %s is gone: %s", self.hosts.named(event.node), event.reason)
        for worker in [w.id for w in self.plane.state.workers.values() if w.node == event.node]:
            self._hang_up(worker)  # should it live, it connects again, and is asked what it has
            if worker in self._links:
                self._gone_links.keep(self._links[worker])
            self._worker_ended(worker)
        self.copies.forget(event.node)
        return [e.NodeLost(event.node, event.reason)]

    def _sizes(self, node: engine_base.NodeInfo) -> tuple[Capacity, Capacity]:
        """Return what a node has, and what other programs leave of it: the engine tells what is left by us as well."""
        ours = [grant for grant in self.executor.grants.values() if grant.node == node.node]
        known = self.plane.state.nodes.get(node.node)
        lent = sum(known.lent.values()) if known else 0.0
        cpus = node.cpus_free + sum(grant.cpus for grant in ours) - lent
        memory = node.memory_free + sum(grant.memory for grant in ours)
        return Capacity(node.cpus, node.memory), Capacity(cpus, memory)

    def _running_on(self, node: str) -> list[tuple[str, str, Capacity]]:
        workers = self.plane.state.workers.values()
        return [(w.id, w.pool.key, w.capacity) for w in workers if w.node == node]

    def _worker_ended(self, worker: str) -> None:
        self.executor.release(worker)
        self._links.pop(worker, None)
        self.usage.pop(worker, None)
        self.pids.pop(worker, None)
        for session in [s for s in self.sessions.values() if s.owner == worker]:
            self.decide(e.ClientLeft(session.name, final=True))
            self.forget(session)

    # The store

    def _persisted(self, tokens: list[int]) -> None:
        self.decide(e.Persisted(tokens))
        for token in tokens:
            self._no_longer_owed(token)
        self.flush()

    def _persist_failed(self, tokens: list[int], reason: str, of_rows: bool) -> None:
        self._decide_and_flush(e.PersistFailed(tokens, reason, of_rows))

    def owe_beside(self, token: int, first: int) -> None:
        """What waits for a write waits for this one as well, which was made of a part of it."""
        links, seq = self._owed.get(first, (None, 0))
        if links is not None:
            links.owed[seq].add(token)
            self._owed[token] = (links, seq)

    def _no_longer_owed(self, token: int) -> None:
        links, seq = self._owed.pop(token, (None, 0))
        if links is not None:
            links.owed[seq].discard(token)
            if not links.owed[seq]:
                del links.owed[seq]
            links.settle()
            self.to_acknowledge.add(links)

    def _store_over(self, reason: str) -> None:
        log.error("this server ends: %s", reason)
        self.stopping.set()

    def _keep_function(self, spec: FunctionSpec) -> None:
        self.writer.job(lambda: self.store.put_function(self.epoch, spec))

    def discard(self, loads: Sequence[Payload]) -> None:
        """Delete the files of payloads, away from the loop: freeing 100 MB of shared memory takes milliseconds."""
        files = [load for load in loads if isinstance(load, Segment)]
        if files:
            names = [file.name for file in files]
            self.copies.drop(names)
            deleted = self.file_thread.submit(self.files.delete, files)
            if self.door is not None:  # a node may ask for one until it is deleted
                deleted.add_done_callback(lambda _: self.loop.call_soon_threadsafe(self.deleted, names))
            if self._pool_timer is not None:
                self._pool_timer.cancel()
            self._pool_timer = self.loop.call_later(POOL_SECONDS, self.file_thread.submit, self.files.drain_pool)

    def deleted(self, names: Sequence[str]) -> None:
        self.copies.drop(names)
        self.flush()

    # Life

    def run(self, work: Any, *, name: str) -> None:
        """Run a coroutine as a task that this server owns until it is done."""
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task %s failed", task.get_name(), exc_info=task.exception())

    async def begin(self) -> None:
        """Take up what an earlier term left, and bring the engine up."""
        self.engine.set_listener(self.engine_event)
        self.decide(e.RecoveryBegan(self.engine.expected_nodes(), self.now() + NODE_LEASE_SECONDS))
        self.functions.load()
        self.run(restart.restore_pending(self), name="restore pending calls")
        if self.epoch > 1:
            self.loop.call_at(self._resubmissions_end, self._retire_unclaimed)
        self.run(orphans.sweep(self), name="sweep orphaned payloads")
        if self.config.mode == "persistent":
            self.run(self.callbacks.run(), name="callbacks")
        self.run(token_limits.show_out_expired(self), name="end connections of expired tokens")
        if self.files.kept is not None:
            self.run(kept_sweeps.sweep(self, self.files.kept), name="sweep copies of payloads")
        self.run(restart.expire_results(self, every=self._sweep_seconds), name="expire results")
        await self.engine.start_up()
        if self.engine.growth is not Growth.NEVER:
            self.run(self._tell_demand(), name="demand for room")
        self.flush()

    async def _tell_demand(self) -> None:
        """Have the engine see what waits for room, so that nodes are added for it."""
        said: list[Capacity] = []
        while True:
            wanted = unmet(self.plane.state)
            if wanted != said:
                said = wanted
                self.engine.demand([engine_base.Bundle(room.cpus, room.memory) for room in wanted])
            await asyncio.sleep(DEMAND_SECONDS)

    def _retire_unclaimed(self) -> None:
        self.functions.retire_unclaimed()
        self.flush()

    @property
    def _sweep_seconds(self) -> float:
        """How often results are looked at: often enough that none is kept twice as long as was stated."""
        return min(RETENTION_SWEEP_SECONDS, max(1.0, self.config.retention / 2))

    async def end(self) -> None:
        """Stop everything that runs; what is queued and detached stays in the store."""
        # From here on workers end because we do: that is no loss of theirs, and counts against no call.
        ended: list[str] = []
        self.engine.set_listener(lambda event: ended.append(event.worker) if _is_down(event) else None)
        if self.writer.fenced:
            await self.engine.abandon()
        else:
            self.decide(e.StopBegan())
            await self.engine.shut_down()
            self._decide_and_flush(e.StopEnded(ended))
        if self.keeping is not None:
            await self.keeping.finish()
        if self.spans is not None:
            await self.spans.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await close_all(self.links)
        for timer in (self._timer, self._ack_timer, self._pool_timer):
            if timer is not None:
                timer.cancel()
        self.client_processes.close()
        self.writer.close()
        self.file_thread.shutdown()
        await asyncio.to_thread(self.files.close)
        self.client_tokens.close()
        self.store.close()
        self.files.remove()
        await asyncio.sleep(0)
        await close_all(self.links)  # whoever was accepted while all this went on


def _is_down(event: engine_base.Event) -> TypeGuard[engine_base.WorkerDown]:
    return isinstance(event, engine_base.WorkerDown)

"""The agent: one process per node that builds, starts, watches and stops things there, and outlives a Server restart.

What it starts it writes down (`ledger`), so that the next agent of the same run adopts it if this one is killed. It
ends when the server says so, when it is terminated, or when no server was there for its grace; nothing that it started
outlives it then.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import gc
import logging
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stoker import paths
from stoker.blobs.base import BlobStore
from stoker.engine.base import SHORT_CHARACTERS
from stoker.engine.local import adoption, processes, scratch, usage
from stoker.engine.local.capacity import CapacityBusy, CapacityLedger
from stoker.engine.local.config import (
    BLOBS_VARIABLE,
    FINGERPRINT_VARIABLE,
    STOP_GRACE_SECONDS,
    TOKEN_VARIABLE,
    AgentConfig,
)
from stoker.engine.local.data_links import DataLinks
from stoker.engine.local.lease import Lease
from stoker.engine.local.ledger import Ledger
from stoker.engine.local.limits import choose_limits
from stoker.engine.local.link import ServerLink, place_of
from stoker.engine.local.log_files import last_lines, log_path, prune
from stoker.engine.local.log_tails import LogTails
from stoker.engine.local.node import NodeSize, node_labels, node_size
from stoker.engine.local.payload_door import PayloadDoor
from stoker.engine.local.requests import Verbs
from stoker.engine.local.server_blobs import server_blobs
from stoker.engine.local.server_leftovers import remove_segments
from stoker.engine.local.standby import UNUSED_SECONDS, Standby
from stoker.engine.local.starts import Starter, Stock
from stoker.engine.local.workers import Workers
from stoker.engine.local.zygotes import Zygotes, clean_environ, first_environment
from stoker.errors import Fenced, StokerError
from stoker.images import code_holds
from stoker.images.agreeing import alone
from stoker.images.builder import EnvironmentBuilder
from stoker.images.worker_path import ensure_worker_path
from stoker.protocol.messages import (
    Beat,
    BuildImage,
    FlushLogs,
    LogsFlushed,
    NodeState,
    Phase,
    Reply,
    Request,
    StartFailed,
    StartWorker,
    StopWorker,
    Welcome,
    WorkerExited,
)
from stoker.types import ErrorInfo

TICK_SECONDS = 1.0  # how soon other programs' use of the node is noticed; costs one stat
HOUSEKEEPING_SECONDS = 30.0  # idle zygotes, orphans, old logs
SWEEP_SECONDS = 6 * 3600.0  # old unpacked source; the first time when the agent has started
SAID_MAX = 256  # reports that may be lost with a connection; said twice they mean nothing
OWNER_FD = 3  # the pipe whose other end is held by whoever wants to be outlived by no agent
EXIT_SECOND_AGENT = 0  # another agent of this run is there and serves: not a failure
log = logging.getLogger("stoker.agent")


class Agent:
    """See the module. `run` returns when everything has ended."""

    def __init__(self, config: AgentConfig, *, blobs: BlobStore, links: DataLinks | None = None) -> None:
        """``links`` are the data connections to a server on another machine."""
        self._config = config
        self._payloads = PayloadDoor(config, links) if links is not None else None
        self._home = paths.home()
        self._ledger = Ledger(config.ledger)
        self._size = node_size()
        ledger = config.capacity or paths.runtime() / "capacity.json"
        self._capacity = CapacityLedger(ledger, run=config.marker, size=self._size)
        self._lease = Lease(now=time.monotonic())
        self._link = ServerLink(
            place_of(config),
            node=config.node,
            token=config.token,
            patience=config.patience,
            term=lambda: self._ledger.state.term,
            peer=self,
        )
        self._logs = LogTails(
            config.logs,
            send=self._link.send,
            connected=lambda: self._link.connected,
            slow=lambda: self._link.slow,
            kept=config.mode == "persistent",
        )
        self._limits = choose_limits(config.tag, mode=config.limits)
        self._workers = Workers(self._ledger, scratch=config.scratch, report=self._on_worker_gone)
        self._zygotes = Zygotes(memory=self._size.memory)
        self._builder = EnvironmentBuilder(
            paths.environments(), blobs, home=self._home, node=config.node, agree=links.agree if links else alone
        )
        self._stock = Stock(
            config=config,
            home=self._home,
            builder=self._builder,
            blobs=blobs,
            capacity=self._capacity,
            limits=self._limits,
            logs=self._logs,
            workers=self._workers,
            zygotes=self._zygotes,
        )
        self._starter = Starter(self._stock, send=self._report)
        self._verbs = Verbs(environments=paths.environments(), logs=config.logs, inventory=self._inventory)
        self._outbox: list[Any] = []
        self._said: deque[Any] = deque(maxlen=SAID_MAX)
        self._left = self._size
        self._stop = asyncio.Event()
        self._stop_grace = STOP_GRACE_SECONDS
        self._stop_reason = "shutdown"
        self._answer_stop: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Task[None]] = set()
        self._builds = 0
        self._zombies: set[int] = set()
        self._lends: dict[str, float] = {}  # not yet written down
        self._welcome: Welcome | None = None
        self._handlers = self._what_is_obeyed()

    def _what_is_obeyed(self) -> dict[type, Callable[[Any], None]]:
        return {
            StartWorker: self._on_start,
            StopWorker: self._on_stop,
            BuildImage: self._on_build,
            FlushLogs: self._on_flush,
            Request: self._on_request,
            Beat: self._on_beat,
        }

    async def run(self) -> None:
        """Serve until told to stop or left alone."""
        processes.become_subreaper()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        adoption.adopt(self._stock, self._ledger, report=self._report)
        scratch.sweep(self._config.scratch, keep={entry.worker for entry in self._ledger.state.workers})
        if self._config.mode == "embedded" and not self._ledger.state.workers:
            self._background(self._stand_by(), name="standby")
        if self._payloads is not None:
            await self._payloads.open()
        self._background(self._serve(), name="server link")
        self._background(self._tick(), name="agent tick")
        if self._config.is_remote:
            self._background(self._beats(), name="beats")
        if self._config.until_stdin_closes:
            await self._watch_stdin()
        await self._stop.wait()
        await self._shut_down()

    async def _watch_stdin(self) -> None:
        """End when whoever started this agent does: the kernel closes its end of the pipe, however it ended."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(OWNER_FD, "rb")
        )

        async def until_closed() -> None:
            while await reader.read(1024):
                continue
            log.warning("whoever started this agent has ended: ending everything")
            here = f"{node_labels()['host']} ({self._config.node[:SHORT_CHARACTERS]})"
            self._stop_reason = f"its node {here} is going: whoever started the agent there has ended"
            self._stop.set()

        self._background(until_closed(), name="owner's pipe")

    async def _stand_by(self) -> None:
        """Have a process ready for a program's first function, for a while."""
        name = f"zygote-standby-{os.getpid()}"
        environment = first_environment(clean_environ(os.environ), run=self._config.marker)
        try:
            worker_path = Path(self._config.runner) if self._config.runner else ensure_worker_path(self._home)
            output = log_path(self._config.logs, name)
            self._zygotes.standby = Standby(sys.executable, worker_path, environment=environment, log=output)
        except (OSError, StokerError) as error:
            log.warning("no process could be started beforehand: %s", error)
            return
        await asyncio.sleep(UNUSED_SECONDS)
        self._zygotes.end_standby()

    async def _serve(self) -> None:
        await self._link.run()
        log.warning("no server for %.0f s: ending everything", self._config.patience)
        self._stop.set()

    # What the link tells

    def on_connected(self, welcome: Welcome) -> None:
        if welcome.term > self._ledger.state.term:
            self._ledger.set_term(welcome.term)
            # Orders of a server that is gone: the new one knows nothing of them, and their tokens mean nothing to it.
            for worker in self._starter.on_their_way:
                self._starter.call_off(worker, "the server was replaced")
        self._welcome = welcome
        if self._config.is_remote:
            self._beat(time.monotonic())  # at once: the answer has the lease, which what starts here may be bound to
        self._look_at_capacity()
        # How workers ended before who is left: a server that misses one in the list could only guess.
        waiting = [*self._said, *self._outbox]
        self._said.clear()
        self._outbox.clear()
        for message in waiting:
            self._report(message)
        self._link.send(self._node_state())
        self._logs.resume()

    def on_disconnected(self) -> None:
        log.info("the server went away")

    def on_message(self, message: Any) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            log.warning("the server sent a %s, which no agent takes", type(message).__name__)
            return
        handler(message)

    # Orders

    def _on_start(self, order: StartWorker) -> None:
        if not self._obeys(order.term):
            self._report(StartFailed(order.worker, self._fenced(order.term)))
        elif order.worker not in self._starter and order.worker not in self._workers:
            self._starter.start(order)

    def _on_stop(self, order: StopWorker) -> None:
        if self._obeys(order.term):
            self._starter.call_off(order.worker, order.reason)
            self._workers.stop(order.worker, grace=order.grace, reason=order.reason)

    def _on_build(self, order: BuildImage) -> None:
        if self._obeys(order.term):
            self._background(self._build(order), name=f"build {order.id}")
        else:
            self._link.send(Reply(order.id, error=self._fenced(order.term)))

    def _on_flush(self, order: FlushLogs) -> None:
        self._logs.flush()
        self._link.send(LogsFlushed(order.id))

    def _on_request(self, request: Request) -> None:
        if request.verb == "stop":
            self._on_stop_request(request)
        elif request.verb == "lend":
            self._on_lend(request)
        else:
            self._background(self._answer(request), name=f"request {request.verb}")

    def _on_beat(self, beat: Beat) -> None:
        self._lease.heard(beat, now=time.monotonic())

    def _beat(self, now: float) -> None:
        """Tell a server on another machine that this node lives; past the lease, end what must not run twice."""
        if self._link.connected and (beat := self._lease.due(now=now)) is not None:
            self._link.send(beat)
        if self._lease.is_over(now=now):
            for running in self._workers.running:
                if running.entry.is_exclusive:
                    why = f"its node was cut off from the server for {self._lease.seconds:.0f} s"
                    self._workers.stop(running.entry.worker, grace=0.0, reason=why)

    def _on_stop_request(self, request: Request) -> None:
        if not self._obeys(int(request.params.get("term", 0))):
            self._link.send(Reply(request.id, error=self._fenced(int(request.params.get("term", 0)))))
            return
        self._stop_grace = float(request.params.get("grace", STOP_GRACE_SECONDS))
        self._answer_stop = lambda: self._link.send(Reply(request.id, result={}))
        self._stop.set()

    def _on_lend(self, request: Request) -> None:
        self._lends[str(request.params["worker"])] = float(request.params["cpus"])
        self._note_lends()
        self._link.send(Reply(request.id, result={}))

    def _note_lends(self) -> None:
        """Write down what is lent; where the file is not to be had, a second later."""
        try:
            while self._lends:
                worker, cpus = next(iter(self._lends.items()))
                self._capacity.lend(worker, cpus=cpus)
                del self._lends[worker]
        except (CapacityBusy, OSError) as error:
            log.warning("what is lent could not be written down: %s", error)

    def _obeys(self, term: int) -> bool:
        if term > self._ledger.state.term:
            self._ledger.set_term(term)
        return term == self._ledger.state.term

    def _fenced(self, term: int) -> ErrorInfo:
        newest = self._ledger.state.term
        return ErrorInfo(Fenced.__name__, f"This order is of term {term}; a server of term {newest} has taken over.")

    # Answers

    async def _build(self, order: BuildImage) -> None:
        loop = asyncio.get_running_loop()

        def progress(line: str) -> None:
            loop.call_soon_threadsafe(self._link.send, Phase(order.worker, "building", line))

        self._builds += 1
        try:
            await self._reply(order.id, lambda: asdict(self._builder.ensure(order.image, progress=progress)))
        finally:
            self._builds -= 1

    async def _answer(self, request: Request) -> None:
        await self._reply(request.id, lambda: self._verbs.run(request.verb, request.params))

    async def _reply(self, number: int, work: Callable[[], Any]) -> None:
        try:
            reply = Reply(number, result=await asyncio.to_thread(work))
        except StokerError as error:
            reply = Reply(number, error=ErrorInfo(type(error).__name__, str(error), fields=error.fields))
        except (OSError, ValueError) as error:
            reply = Reply(number, error=ErrorInfo(StokerError.__name__, f"The node could not answer: {error}."))
        self._link.send(reply)

    def _inventory(self) -> dict[str, Any]:
        return {
            "interpreters": [asdict(one) for one in self._builder.interpreters.all()],
            "limits": self._limits.mode,
            "limits_why": self._limits.why,
            "cpus": self._size.cpus,
            "memory": self._size.memory,
            "pid": os.getpid(),
            "zygotes": [
                {"pid": one.pid, "function": one.launch.config.label, "workers": sorted(one.workers)}
                for one in self._zygotes.live
            ],
            "workers": [asdict(one.entry) for one in self._workers.running],
        }

    # Reports

    def _on_worker_gone(self, message: WorkerExited) -> None:
        try:
            self._capacity.release(message.worker)
        except (CapacityBusy, OSError):
            pass  # its process is gone, and so the entry does not count any more
        self._logs.finish(message.worker)
        if self._payloads is not None:
            self._payloads.payloads.forget_worker(message.worker)
        if message.cause in {"exit", "signal"}:
            said = last_lines(log_path(self._config.logs, message.worker))
            message = replace(message, calls=[line.call for line in said], texts=[line.text for line in said])
        self._report(message)

    def _report(self, message: Any) -> None:
        """Send a message now, or when a server is there again."""
        if self._link.connected:
            self._link.send(message)
        if not isinstance(message, Phase):
            (self._said if self._link.connected else self._outbox).append(message)

    def _node_state(self) -> NodeState:
        entries = [one.entry for one in self._workers.running]
        return NodeState(
            cpus=self._size.cpus,
            memory=self._size.memory,
            cpus_free=self._left.cpus,
            memory_free=self._left.memory,
            labels={**node_labels(), **self._config.labels},
            workers=[entry.worker for entry in entries],
            functions=[entry.function for entry in entries],
            pids=[entry.pid for entry in entries],
            cpus_held=[entry.cpus for entry in entries],
            memory_held=[entry.memory for entry in entries],
            starting=self._starter.on_their_way,
            grants=[entry.grant for entry in entries],
            began=[entry.began for entry in entries],
        )

    # What happens by itself

    async def _beats(self) -> None:
        """Beat by itself: what the node is looked at with waits for threads, which starts may all hold for minutes."""
        while True:
            self._beat(time.monotonic())
            await asyncio.sleep(TICK_SECONDS)

    async def _tick(self) -> None:
        next_usage = next_housekeeping = next_sweep = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            try:
                self._note_lends()
                if self._look_at_capacity():
                    self._link.send(self._node_state())
                if self._logs.waiting and self._link.connected and not self._link.slow:
                    self._logs.resume()
                if now >= next_usage and self._workers.running:
                    next_usage = now + usage.USAGE_SECONDS
                    self._link.send(usage.measure(self._workers.running))
                if now >= next_housekeeping:
                    next_housekeeping = now + HOUSEKEEPING_SECONDS
                    await self._keep_house()
                if now >= next_sweep:
                    next_sweep = now + SWEEP_SECONDS
                    await asyncio.to_thread(code_holds.sweep, self._home / "bundles")
            except OSError as error:  # no file descriptor left, say; in a second there may be one
                log.warning("a look at the node failed: %s", error)

    def _look_at_capacity(self) -> bool:
        """Tell whether other programs leave another capacity than before."""
        before: NodeSize = self._left
        try:
            # Programs that were killed leave the file as it is: while others hold anything, it is read each time.
            if self._capacity.touched() or before != self._size:
                self._left = self._capacity.left_by_others()
        except (CapacityBusy, OSError) as error:
            self._capacity.forget_stamp()  # looked at again in a second
            log.warning("what other programs hold of this node could not be read: %s", error)
        return self._left != before

    async def _keep_house(self) -> None:
        self._zygotes.end_idle()
        await asyncio.to_thread(prune, self._config.logs, alive=self._logs.workers)
        if not self._builds and not self._starter.on_their_way:
            # A zombie that was there half a minute ago has nobody who waits for it: builds wait for theirs at once.
            found = processes.zombies(session=os.getsid(0))
            for pid in found & self._zombies:
                processes.reap(pid)
            self._zombies = found

    # The end

    async def _shut_down(self) -> None:
        self._builder.close("the agent is shutting down")
        await self._starter.call_off_all("the agent is shutting down")
        await self._workers.stop_all(grace=self._stop_grace, reason=self._stop_reason)
        await self._zygotes.close()
        await asyncio.to_thread(adoption.end_everything, self._config)
        await asyncio.to_thread(scratch.sweep, self._config.scratch)
        if self._payloads is not None:
            await self._payloads.close()
        self._answer_stop()
        await self._link.drained()
        alone = not self._link.connected
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._logs.close()
        await self._limits.close()
        try:
            self._capacity.release_all()
        except CapacityBusy:
            pass  # its entries belong to processes that are gone
        self._ledger.delete()
        if alone and self._config.mode == "embedded":
            self._clear_up_after_the_server()
        elif alone and self._welcome and self._welcome.segments:
            lock = self._config.state_dir / "server.lock"
            await asyncio.to_thread(remove_segments, Path(self._welcome.segments), lock=lock)

    def _clear_up_after_the_server(self) -> None:
        """Nobody comes back to an embedded run whose server and client are gone: leave no file of it."""
        places = [self._welcome.segments, self._welcome.spill] if self._welcome else []
        for place in [*places, str(self._config.run_dir)]:
            if place:
                shutil.rmtree(place, ignore_errors=True)

    def _background(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)


def take_run_lock(run_dir: Path) -> int | None:
    """Take the lock that one agent of a run holds while it lives; None when another has it."""
    fd = os.open(run_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def run_agent(config: AgentConfig) -> int:
    """Be the agent of a run; returns the process's exit status when it has ended everything."""
    from stoker.blobs.opening import open_blobs

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for directory in (config.run_dir, config.state_dir):
        paths.private_dir(directory)
    lock = take_run_lock(config.run_dir)
    if lock is None:
        return EXIT_SECOND_AGENT

    if config.blobs:
        config.blobs_note.write_text(config.blobs_tag)
    else:
        config.blobs_note.unlink(missing_ok=True)

    async def main() -> None:
        links = DataLinks.of(config) if config.is_remote else None
        blobs = open_blobs(config.blobs) if links is None else server_blobs(config, links)
        await Agent(config, blobs=blobs, links=links).run()

    asyncio.run(main())
    config.blobs_note.unlink(missing_ok=True)
    (config.run_dir / "agent.lock").unlink(missing_ok=True)
    os.close(lock)
    return 0


def fork_agent(config: AgentConfig) -> int:
    """Fork the agent off this process and return its pid; to be called before any thread or event loop is there.

    The child has a session of its own, so that a terminal's Ctrl-C does not reach it, and none of the caller's files.
    """
    paths.private_dir(config.state_dir)
    gc.freeze()  # what both share is then never copied for the collector's bookkeeping
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        _detach(config)
        status = run_agent(config)
    except BaseException:
        log.exception("the agent ended by an error")
    finally:
        os._exit(status)


def _detach(config: AgentConfig) -> None:
    if os.getsid(0) != os.getpid():
        os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what blocks signals for the time of the fork is its caller
    kept = 3
    if config.until_stdin_closes:
        os.dup2(0, OWNER_FD, inheritable=False)
        kept = OWNER_FD + 1
    null = os.open(os.devnull, os.O_RDWR)
    out = os.open(config.state_dir / "agent.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.closerange(kept, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")


def _parse(arguments: list[str]) -> AgentConfig:
    parser = argparse.ArgumentParser(prog="stoker-agent", description="The node agent of Stoker's local engine.")
    for name in ("run-dir", "state-dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    server = parser.add_mutually_exclusive_group(required=True)
    server.add_argument("--server-socket", type=Path, default=Path())
    server.add_argument("--server", default="", help="stoker://HOST:PORT of a server on another machine")
    parser.add_argument("--until-stdin-closes", action="store_true")
    parser.add_argument("--mode", choices=["embedded", "persistent"], default="embedded")
    parser.add_argument("--grace", type=float, default=0.0)
    parser.add_argument("--node", default="local")
    parser.add_argument("--limits", choices=["auto", "cgroup2", "cgroup1", "watch"], default="auto")
    parser.add_argument("--runner", default="")
    given = parser.parse_args(arguments)
    blobs = os.environ.get(BLOBS_VARIABLE, "") if given.mode == "persistent" and not given.server else ""
    # Not handed on to what this agent starts.
    token, fingerprint = os.environ.pop(TOKEN_VARIABLE, ""), os.environ.pop(FINGERPRINT_VARIABLE, "")
    return AgentConfig(**vars(given), blobs=blobs, token=token, fingerprint=fingerprint)


if __name__ == "__main__":
    agent_config = _parse(sys.argv[1:])
    paths.private_dir(agent_config.state_dir)
    _detach(agent_config)
    sys.exit(run_agent(agent_config))

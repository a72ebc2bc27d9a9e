"""A server's life from its socket to its end: what `stoker.server.__main__` runs once the agent is on its way."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from stoker._version import __version__
from stoker.blobs.location import BlobLocation
from stoker.blobs.opening import check_blobs, open_blobs
from stoker.engine.base import Engine
from stoker.errors import StokerError, StoreError
from stoker.server.blob_owner import claim, store_id
from stoker.server.config import END_SIGNALS, ServerConfig
from stoker.server.link import Link
from stoker.server.server import Server
from stoker.server.storage import open_store

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from stoker.server.doors import TcpDoor
    from stoker.server.gateway.http_door import HttpDoor

BACKLOG = 1024
GC_THRESHOLD = (50_000, 20, 100)  # what makes cycles here (tracebacks, closed connections) is rare


def serve(config: ServerConfig, engine: Engine, *, parent_pid: int, ready: Callable[[dict[str, object]], None]) -> None:
    """Run a server until it is told to stop. ``ready`` is called once it listens.

    The signals that end it may be blocked until then: they are let through once they end it in order.

    Raises:
        StokerError: its store or its socket cannot be opened.
    """
    # A million queued calls are a million objects without a cycle; to walk them again and again costs half of the time.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    uvloop.run(_serve(config, engine, parent_pid, ready))


async def _serve(
    config: ServerConfig, engine: Engine, parent_pid: int, ready: Callable[[dict[str, object]], None]
) -> None:
    try:
        if config.blobs:
            check_blobs(config.blobs)
        blobs = open_blobs(config.blobs)
        store = open_store(config, standby=_waiting if config.standby else None)
        if config.blobs:
            place = BlobLocation.parse(config.blobs).place
            owner = store.identity() or store_id(config.state_dir)  # a database's: its standby goes on with them
            claim(blobs, owner, place=place, state_dir=config.state_dir)
        epoch = store.begin_term()
    except StokerError:
        await engine.shut_down(grace=0.0)  # the agent lives already, and would wait for another server
        raise
    server = Server(
        config=config,
        store=store,
        blobs=blobs,
        engine=engine,
        epoch=epoch,
        payload_blobs=blobs if config.blobs else None,
    )
    loop = asyncio.get_running_loop()
    for name in END_SIGNALS:
        loop.add_signal_handler(name, server.stopping.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
    parent = _watch_parent(parent_pid, server)
    listener = await _begin(config, server, engine)
    bound = config.socket.stat().st_ino
    _say_started(server)
    ready({"socket": str(config.socket), "pid": os.getpid()})
    await server.stopping.wait()
    if config.mode == "persistent":
        log.info("the server stops")
    listener.close()
    if server.door is not None:
        server.door.close()
    if server.http is not None:
        await server.http.close()
    if _is_same(config.socket, bound):
        config.socket.unlink(missing_ok=True)
    else:
        server.files.keep()  # another server works here now: all that lies there is its own
    await server.end()
    if parent >= 0:
        loop.remove_reader(parent)
        os.close(parent)


async def _begin(config: ServerConfig, server: Server, engine: Engine) -> asyncio.Server:
    """Open the doors and begin; where something of it fails, nothing is left open."""
    listener: asyncio.Server | None = None
    try:
        if config.traces == "otlp":
            from stoker.server.spans import open_spans

            server.spans = open_spans(server)
        server.door = await open_door(config, server)  # first: it fails more often, and leaves no file behind
        if server.door is not None:
            engine.open_to_agents(server.door.address, server.door.fingerprint, server.node_tokens.token)
        server.http = await open_gateway(config, server)
        listener = await _listen(config.socket, server)
        await server.begin()
    except StokerError:
        if listener is not None:
            listener.close()
            config.socket.unlink(missing_ok=True)
        if server.http is not None:
            await server.http.close()
        await server.end()  # the agent with it, which would wait for another server
        raise
    return listener


def _say_started(server: Server) -> None:
    config, engine = server.config, server.engine
    if config.mode == "persistent":
        where = f"a Ray cluster at {engine.place}" if engine.place else "this machine"
        log.info(
            "Stoker %s runs (pid %d), on %s, its calls in %s, start %d of that",
            *(__version__, os.getpid(), where, config.store_shown, server.epoch),
        )
    if server.door is not None:
        server.door.tell()
    if server.http is not None:
        log.info("HTTP at %s", ", ".join(server.http.urls))


def _waiting(holder: str) -> None:
    """Say who has the store; a wait that may be long ends by a signal, and the agent with it."""
    log.info("waiting again as a standby: %s was faster", holder)
    for name in END_SIGNALS:
        signal.signal(name, _end_waiting)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)


def _end_waiting(number: int, frame: object) -> None:
    raise StoreError(f"It was told to end ({signal.Signals(number).name}) while it waited for the store.")


def _is_same(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except FileNotFoundError:
        return True


async def _listen(path: Path, server: Server) -> asyncio.Server:
    path.unlink(missing_ok=True)  # of a server that was killed; the lock says that none lives
    before = os.umask(0o177)
    try:
        return await asyncio.get_running_loop().create_unix_server(
            lambda: Link(server, server.links), str(path), backlog=BACKLOG
        )
    except OSError as error:
        raise StokerError(
            f"The server cannot listen at {path}: {error}. Set STOKER_RUNTIME_DIR to a short path."
        ) from error
    finally:
        os.umask(before)


async def open_door(config: ServerConfig, server: Server) -> TcpDoor | None:
    """Listen for programs with a token, where that is asked for.

    Raises:
        StokerError: the address cannot be listened at, or the certificate not be used.
    """
    if config.listen is None:
        return None
    from stoker.server.doors import TcpDoor, certificate_for, open_listener  # with `ssl`; most servers need neither

    listener = open_listener(config.listen)
    try:
        door = TcpDoor(
            server,
            server.links,
            listener=listener,
            tokens=server.client_tokens,
            workers=server.tokens,
            nodes=server.node_tokens,
            files=server.files,
            certificate=certificate_for(config, listener),
        )
    except StokerError:
        listener.close()
        raise
    await door.open()
    return door


async def open_gateway(config: ServerConfig, server: Server) -> HttpDoor | None:
    """Listen for HTTP, where that is asked for; where nobody chose the address, and it is taken, do without.

    Raises:
        StokerError: the address that was asked for cannot be had.
    """
    if config.http is None:
        return None
    server.no_http = ""
    from stoker.server.doors import certificate_for
    from stoker.server.gateway.http_door import HttpDoor, open_http  # with uvicorn; most servers of programs need none

    try:
        listener = open_http(config.http)
    except StokerError as error:
        if config.http_is_chosen:
            raise
        server.no_http = str(error)
        log.warning("no HTTP: %s", error)
        return None
    try:
        door = HttpDoor(server, listener, certificate_for(config, listener))
    except StokerError:
        listener.close()
        raise
    await door.open()
    return door


def _watch_parent(pid: int, server: Server) -> int:
    """Stop when the program that started this server has ended, however it did."""
    if not pid:
        return -1
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        server.stopping.set()
        return -1
    asyncio.get_running_loop().add_reader(fd, server.stopping.set)
    return fd

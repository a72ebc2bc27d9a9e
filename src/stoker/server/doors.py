"""Doors for programs that are not on this machine, or not this user's: TCP, with a token, and TLS beyond loopback.

What is here knows roles only by name: who else comes over the network one day is admitted here as well.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from typing import Any

from stoker.errors import InvalidRequest, PermissionDenied, StokerError
from stoker.protocol.messages import Hello
from stoker.server.certificates import Certificate, given_certificate, own_certificate
from stoker.server.client_tokens import ClientTokens
from stoker.server.config import ServerConfig
from stoker.server.link import Greeter, Link
from stoker.server.payloads import PayloadFiles
from stoker.server.remote_link import RemoteLink
from stoker.server.tokens import NodeTokens, WorkerTokens
from stoker.transport.addresses import SCHEME, Address, is_loopback
from stoker.transport.tcp import tune

log = logging.getLogger(__name__)

NODE_ROLES = frozenset({"agent", "node"})
WORKER_HOLDER = "worker:"  # begins the holder of a link that a worker opened
WORKER_ROLES = frozenset({"worker", "control"})
# Connections whose token was not seen yet; each has `link.GREETING_SECONDS` to show it, and costs a file descriptor and
# some 50 KiB. All workers come at once to a server that was restarted: with room for 64, a thousand needed sixteen
# tries each, and longer than a server waits for what they hold.
STRANGERS_MAX = 2048
BACKLOG = 256
_SESSION_NAME = re.compile(r"c-[A-Za-z0-9]{1,64}")


class TcpDoor:
    """One listening TCP socket."""

    def __init__(
        self,
        greeter: Greeter,
        links: set[Link],
        *,
        listener: socket.socket,
        tokens: ClientTokens,
        workers: WorkerTokens,
        nodes: NodeTokens,
        files: PayloadFiles,
        certificate: Certificate | None,
    ) -> None:
        self.files = files
        self.certificate = certificate
        self.address = Address(*listener.getsockname()[:2])
        self._greeter = greeter
        self._links = links
        self._listener = listener
        self._tokens = tokens
        self._workers = workers
        self._nodes = nodes
        self._strangers: dict[RemoteLink, None] = {}  # the one that came first stands first
        self._known: set[RemoteLink] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: RemoteLink(self._greeter, self._links, self), sock=self._listener, backlog=BACKLOG
        )

    def tell(self) -> None:
        """Say in the log where it is, once everything else is up as well."""
        log.info("listening at %s%s", self.address, f", {self.fingerprint}" if self.certificate else "")
        if not len(self._tokens):
            log.warning("nobody can come in over TCP yet: make a token with `stoker tokens create NAME`")

    def close(self) -> None:
        """Listen no more; who is in stays."""
        if self._server is not None:
            self._server.close()

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint if self.certificate is not None else ""

    def facts(self) -> dict[str, Any]:
        """Return what people want to know of this door."""
        return {
            "kind": "tcp",
            "address": str(self.address),
            "addresses": addresses_of(self.address),
            "tls": self.certificate is not None,
            "fingerprint": self.fingerprint,
            "connections": len(self._known),
            "unknown": len(self._strangers),
        }

    def admit(self, link: RemoteLink, hello: Hello) -> None:
        """Let somebody in who has a token.

        Raises:
            PermissionDenied: it has none that is valid, or comes as somebody who does not come over TCP.
            InvalidRequest: its name is none that a program gives itself.
        """
        if hello.role in NODE_ROLES:
            if self._nodes.node_of(hello.token) != hello.name:
                raise PermissionDenied(f"The token is not that of node {hello.name!r:.80}.")
            link.holder = f"node:{hello.name}"
        elif hello.role in WORKER_ROLES:
            if self._workers.worker_of(hello.token) != hello.name:
                raise PermissionDenied(f"The token is not that of worker {hello.name!r:.80}.")
            link.holder = f"{WORKER_HOLDER}{hello.name}"
        else:
            link.holder = self._holder_of_session(hello)

    def _holder_of_session(self, hello: Hello) -> str:
        holder = self._owner(hello.token)
        if not holder:
            token = self._tokens.check(hello.token)
            if token.is_limited and not token.python:
                raise PermissionDenied(
                    f"The token {token.name!r} is for calling {token.scope} over HTTP. One for Python programs is made "
                    f"by `stoker tokens create NAME --app {token.app} --python`: what they send is pickled, so whoever "
                    "has it can run code of theirs in the app's workers."
                )
            holder = token.id
        if hello.role != "client":
            raise PermissionDenied(f"Nobody comes over TCP as {hello.role!r}.")
        if not _SESSION_NAME.fullmatch(hello.name):
            raise InvalidRequest(f"{hello.name!r:.80} is no name of a session.")
        return holder

    def _owner(self, token: str) -> str:
        """Return who comes with a worker's token: that worker's own client; empty for other tokens."""
        try:
            return f"{WORKER_HOLDER}{self._workers.worker_of(token)}"
        except PermissionDenied:
            return ""

    def came(self, link: RemoteLink) -> None:
        """Somebody knocked. Of too many whose token was not seen yet, the one that has waited longest goes."""
        self._strangers[link] = None
        if len(self._strangers) > STRANGERS_MAX:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.abort()

    def known(self, link: RemoteLink) -> None:
        """Its token was seen."""
        self._strangers.pop(link, None)
        self._known.add(link)

    def left(self, link: RemoteLink) -> None:
        self._strangers.pop(link, None)
        self._known.discard(link)


def open_listener(
    wanted: Address, *, option: str = "--listen HOST:PORT (STOKER_LISTEN)", scheme: str = SCHEME
) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        StokerError: it cannot be: it is in use, or not of this machine.
    """
    try:
        found = socket.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        listener = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        raise _cannot_listen(wanted, error, option, scheme) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune(listener)
        listener.bind(place)
    except OSError as error:
        listener.close()
        raise _cannot_listen(wanted, error, option, scheme) from error
    return listener


def certificate_for(config: ServerConfig, listener: socket.socket) -> Certificate | None:
    """Return the certificate of a door: the one that was given, else one of the server's own beyond loopback.

    Raises:
        InvalidRequest: the one that was given cannot be used.
    """
    if config.tls_cert is not None:
        return given_certificate(config.tls_cert, config.tls_key)
    if config.tls_key is not None:
        raise InvalidRequest("--tls-key (STOKER_TLS_KEY) was given without --tls-cert (STOKER_TLS_CERT).")
    return None if is_loopback(listener.getsockname()[0]) else own_certificate(config.state_dir)


def addresses_of(door: Address) -> list[str]:
    """Return what programs elsewhere may call a door that listens at every address of this machine; else its own."""
    if not ipaddress.ip_address(door.host.partition("%")[0]).is_unspecified:
        return [str(door)]
    return [str(Address(socket.gethostname(), door.port)), str(Address("127.0.0.1", door.port))]


def _cannot_listen(wanted: Address, error: OSError, option: str, scheme: str) -> StokerError:
    where = f"{scheme}{str(wanted).removeprefix(SCHEME)}"
    return StokerError(
        f"The server cannot listen at {where}: {error.strerror}. Give another address of this machine, or another "
        f"port, with {option}."
    )

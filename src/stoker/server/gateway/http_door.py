"""The door for HTTP: where the gateway listens."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from stoker.server.certificates import Certificate
from stoker.server.doors import addresses_of, open_listener
from stoker.server.gateway.connections import Connections
from stoker.server.gateway.gateway import Gateway
from stoker.server.gateway.unread import READ_SECONDS
from stoker.server.metrics.exposition import Exposition
from stoker.transport.addresses import SCHEME, Address, is_loopback

if TYPE_CHECKING:
    from stoker.server.server import Server

BACKLOG = 2048
CLOSING_SECONDS = 5.0  # for requests that are being answered when the server stops


class HttpDoor:
    """See the module."""

    def __init__(self, server: Server, listener: socket.socket, certificate: Certificate | None) -> None:
        self.address = Address(*listener.getsockname()[:2])
        self.certificate = certificate
        self._listener = listener
        gateway = Gateway(server, is_local=is_loopback(self.address.host))
        self._connections = Connections(gateway, plain=gateway.plain)
        gateway.exposition = Exposition(server, self._connections)
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connections.make,
            sock=self._listener,
            backlog=BACKLOG,
            ssl=self.certificate.context if self.certificate is not None else None,
        )
        self._sweeping = asyncio.create_task(self._connections.sweep(), name="sweep HTTP connections")

    async def close(self) -> None:
        """Listen no more, and return when what was asked is answered, or cut."""
        if self._server is not None:
            self._server.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        self._connections.close()
        await self._connections.drained(CLOSING_SECONDS)

    @property
    def urls(self) -> list[str]:
        """Where it is, as ``https://HOST:PORT``; this machine's name first where it listens everywhere."""
        scheme = "https" if self.certificate is not None else "http"
        return [f"{scheme}://{address.removeprefix(SCHEME)}" for address in addresses_of(self.address)]

    def facts(self) -> dict[str, Any]:
        return {
            "kind": "http",
            "address": self.urls[0],
            "addresses": self.urls,
            "tls": self.certificate is not None,
            "fingerprint": self.certificate.fingerprint if self.certificate is not None else "",
            "connections": len(self._connections),
        }


def open_http(wanted: Address) -> socket.socket:
    """Return the socket of the gateway.

    Raises:
        StokerError: the address cannot be had; it says why, and what to choose another one by.
    """
    listener = open_listener(wanted, option="--http HOST:PORT (STOKER_HTTP)", scheme="http://")
    # Else the kernel would cut who reads nothing as soon as a machine of our own that does not answer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * READ_SECONDS))
    return listener

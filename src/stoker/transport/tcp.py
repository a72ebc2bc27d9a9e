"""TCP connections to a server: in clear on this machine only, with TLS beyond it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from stoker.errors import ConnectionFailed
from stoker.transport.addresses import Address, is_loopback
from stoker.transport.sockets import FrameSocket

if TYPE_CHECKING:
    from stoker.transport.tls import Trust

# A peer whose machine was switched off, or whose network is gone, says nothing: it is noticed within half a minute.
KEEPALIVE_IDLE_SECONDS = 10
KEEPALIVE_EVERY_SECONDS = 5
KEEPALIVE_PROBES = 4
UNACKNOWLEDGED_MAX_SECONDS = 30

_OPTIONS = (
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", KEEPALIVE_EVERY_SECONDS),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", KEEPALIVE_PROBES),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 1000 * UNACKNOWLEDGED_MAX_SECONDS),
)


def tune(sock: socket.socket) -> None:
    """Have small frames leave at once and dead peers noticed; a listening socket hands that on to what it accepts."""
    for level, name, value in _OPTIONS:
        if hasattr(socket, name):
            sock.setsockopt(level, getattr(socket, name), value)


def connect_tcp(
    address: Address, trust: Trust | None = None, *, timeout: float | None = None, in_parts: bool = True
) -> FrameSocket:
    """Connect to a server. Without ``trust``, TLS and this machine's authorities are used beyond loopback.

    ``in_parts`` puts bodies that come in parts together; else each `Part` is received by itself.

    Raises:
        ConnectionFailed: nobody listens there, or it does not speak TLS where that is wanted.
        PermissionDenied: its certificate is not to be believed.
    """
    try:
        sock = socket.create_connection(address, timeout)
    except socket.gaierror as error:
        raise ConnectionFailed(f"The host of {address} is not known: {error.strerror}.") from error
    except OSError as error:
        raise ConnectionFailed(
            f"No server answers at {address}: {error.strerror or error}. See there whether it runs and listens "
            "(`stoker server status`), and that no firewall is between."
        ) from error
    try:
        tune(sock)
        if trust is None and is_loopback(sock.getpeername()[0]):
            return FrameSocket(sock, in_parts=in_parts)
        from stoker.transport.tls import Trust, connect_tls

        return connect_tls(sock, trust or Trust(), host=address.host, where=str(address), in_parts=in_parts)
    except OSError as error:
        sock.close()
        if isinstance(error, ConnectionFailed):
            raise
        raise ConnectionFailed(f"The connection to {address} broke: {error}") from error
    except BaseException:
        sock.close()
        raise

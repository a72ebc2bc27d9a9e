"""Sockets in Linux's abstract namespace: they leave no file behind, whoever is killed.

Everybody on the machine can connect to them, so both ends look who the other is: only the same user is let in.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct

from stoker.errors import ConnectionFailed, PermissionDenied

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def listen() -> tuple[socket.socket, str]:
    """Return a socket that one peer may connect to, not blocking, and its address."""
    address = f"stoker-{secrets.token_hex(16)}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    listener.bind("\0" + address)
    listener.listen(1)
    return listener, address


def connect(address: str) -> socket.socket:
    """Connect to a socket of this user's.

    Raises:
        ConnectionFailed: nobody listens there.
        PermissionDenied: it is somebody else's.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(None)  # whatever default the user's program has set
        sock.connect("\0" + address)
        check_user(sock)
    except OSError as error:
        sock.close()
        raise ConnectionFailed(f"Nobody answers at {address}: {error}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def check_user(sock: socket.socket) -> None:
    """Raise `PermissionDenied` unless the peer runs as this user."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid = _CREDENTIALS.unpack(raw)[1]
    if uid != os.geteuid():
        raise PermissionDenied(f"The socket belongs to user {uid}, not to this one.")

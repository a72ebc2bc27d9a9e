"""Which server this program uses: the variables name one, else a saved connection does, else the user's own runs here.

    STOKER_SERVER       ``stoker://HOST:PORT``, or the path of a Unix socket (which is what workers are given)
    STOKER_TOKEN        the token for it
    STOKER_FINGERPRINT  the SHA-256 of its certificate, for one that it made itself
    STOKER_CA           a file of certificate authorities, for one that they vouch for

`stoker server connect` saves the same four in ``connection.json`` of the home directory, readable by its user only.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from stoker import paths
from stoker.client.connection import Endpoint, SocketEndpoint
from stoker.errors import InvalidOption, StokerError
from stoker.transport.addresses import SCHEME, Address, parse_address
from stoker.transport.current import FINGERPRINT_VARIABLE, SERVER_VARIABLE, TOKEN_VARIABLE
from stoker.transport.sockets import FrameSocket

CA_VARIABLE = "STOKER_CA"
VARIABLES = (SERVER_VARIABLE, TOKEN_VARIABLE, FINGERPRINT_VARIABLE, CA_VARIABLE)


@dataclass(frozen=True)
class TcpEndpoint:
    """A server at a network address. With neither fingerprint nor CA, TLS is used beyond this machine only."""

    address: Address
    token: str
    fingerprint: str = ""
    ca: str = ""

    @property
    def path(self) -> str:
        return str(self.address)

    @property
    def is_remote(self) -> bool:
        return True

    def connect(self, *, timeout: float) -> FrameSocket:
        from stoker.transport.tcp import connect_tcp

        if not (self.fingerprint or self.ca):
            return connect_tcp(self.address, timeout=timeout)
        from stoker.transport.tls import Trust, parse_fingerprint

        pinned = parse_fingerprint(self.fingerprint, option=FINGERPRINT_VARIABLE) if self.fingerprint else ""
        return connect_tcp(self.address, Trust(pinned, self.ca), timeout=timeout)

    def revive(self) -> None:
        return None

    def inherited(self) -> Endpoint:
        return self


@dataclass(frozen=True)
class SavedConnection:
    """What `stoker server connect` was told; each as in the variables."""

    server: str
    token: str
    fingerprint: str = ""
    ca: str = ""

    def endpoint(self) -> TcpEndpoint:
        """Return where this leads.

        Raises:
            InvalidOption: its address is none.
        """
        return TcpEndpoint(parse_address(self.server, option="server"), self.token, self.fingerprint, self.ca)


def configured_endpoint() -> Endpoint | None:
    """Return the server that the variables or a saved connection name, if any does.

    Raises:
        InvalidOption: a variable cannot be read.
        StokerError: the saved connection cannot be read.
    """
    if named := os.environ.get(SERVER_VARIABLE):
        token = os.environ.get(TOKEN_VARIABLE, "")
        if named.startswith("/"):
            return SocketEndpoint(named, token)
        if not named.startswith(SCHEME):
            raise InvalidOption(
                f"{SERVER_VARIABLE}={named!r} names no server. It is {SCHEME}HOST:PORT, or the absolute path of a "
                "Unix socket."
            )
        address = parse_address(named, option=SERVER_VARIABLE)
        return TcpEndpoint(address, token, os.environ.get(FINGERPRINT_VARIABLE, ""), os.environ.get(CA_VARIABLE, ""))
    saved = saved_connection()
    return saved.endpoint() if saved is not None else None


def local_endpoint() -> SocketEndpoint | None:
    """Return the user's persistent server on this machine if it listens."""
    path = str(paths.server_runtime() / "server.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return None
    return SocketEndpoint(path)


def connection_file() -> Path:
    """Return where a connection is saved."""
    return paths.home() / "connection.json"


def saved_connection() -> SavedConnection | None:
    """Return the connection that was saved, if one was.

    Raises:
        StokerError: its file cannot be read.
    """
    path = connection_file()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    try:
        return SavedConnection(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise _unreadable(path, error) from None


def save_connection(connection: SavedConnection) -> Path:
    """Keep a connection, for this user's eyes only; return its file."""
    path = connection_file()
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(asdict(connection), file)
    partial.replace(path)
    return path


def forget_connection() -> bool:
    """Remove the saved connection; whether there was one."""
    try:
        connection_file().unlink()
    except FileNotFoundError:
        return False
    return True


def _unreadable(path: Path, error: Exception) -> StokerError:
    return StokerError(
        f"The saved connection {path} cannot be read: {error}. `stoker server disconnect` removes it, `stoker server "
        "connect` makes another."
    )

"""TLS for frames: the same stream of records for a client's blocking socket and for the server's loop.

The handshake and the records are worked out in memory (``ssl.MemoryBIO``), and whoever has the socket moves the bytes.
So one thread may receive while another sends, which the standard library's own TLS sockets do not allow; and the
server can look at a connection's first byte before it decides what to make of it.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import threading
from dataclasses import dataclass

from stoker.errors import ConnectionFailed, InvalidOption, PermissionDenied
from stoker.protocol.frames import MAGIC, Buffer
from stoker.transport.sockets import RECEIVE_BYTES, FrameSocket

RECORD_BYTES = 64 << 10  # above the 16 KiB that a record may hold
HANDSHAKE_RECORD = 0x16  # the first byte that a client of TLS sends
_DIGEST = re.compile(r"[0-9a-f]{64}")


def parse_fingerprint(text: str, *, option: str) -> str:
    """Return the SHA-256 of a certificate as 64 hexadecimal digits.

    Raises:
        InvalidOption: it is none.
    """
    digest = text.lower().removeprefix("sha256:").replace(":", "")
    if not _DIGEST.fullmatch(digest):
        raise InvalidOption(
            f"{option}={text!r} is no fingerprint. It is sha256: and 64 hexadecimal digits, as `stoker server status` "
            "shows it on the server's machine."
        )
    return digest


def fingerprint_of(certificate: bytes) -> str:
    """Return the fingerprint of a certificate (DER), as people are shown it."""
    return f"sha256:{hashlib.sha256(certificate).hexdigest()}"


@dataclass(frozen=True)
class Trust:
    """Which server is believed: the one whose certificate has this fingerprint, or that a CA of this file vouches for.

    With neither, the certificate authorities of this machine count. Nobody is believed unverified.
    """

    fingerprint: str = ""
    ca: str = ""

    def context(self) -> ssl.SSLContext:
        """Return how to connect.

        Raises:
            InvalidOption: the CA's file cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
        except (OSError, ssl.SSLError) as error:
            raise InvalidOption(f"The CA file {self.ca!r} cannot be read as PEM certificates: {error}.") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.fingerprint and not self.ca:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # `check` compares it, before anything is said to that server
        return context

    def check(self, certificate: bytes, *, where: str) -> None:
        """Raise `PermissionDenied` where the certificate is not the pinned one."""
        found = fingerprint_of(certificate)
        if self.fingerprint and found != f"sha256:{self.fingerprint}":
            raise PermissionDenied(
                f"The server at {where} shows the certificate {found}, not sha256:{self.fingerprint}, which is pinned "
                "here. Nothing was sent to it. If its certificate was made anew, take the fingerprint that `stoker "
                "server status` shows on its machine; else somebody may stand between you and it."
            )


class TlsStream:
    """One end of a TLS connection, in memory. What `outgoing` returns must be sent, in order, after each step."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool = False, host: str | None = None) -> None:
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=server_side, server_hostname=host)
        self._lock = threading.Lock()
        self.established = False

    def start(self) -> None:
        """Make the client's first words."""
        with self._lock:
            self._handshake()

    def feed(self, data: Buffer) -> bytes:
        """Take what came from the other end; return what it said, which may be nothing yet.

        Raises:
            ssl.SSLError: it does not speak TLS, or its certificate is not to be believed.
        """
        with self._lock:
            self._received.write(data)
            if not self.established:
                self._handshake()
            return self._read() if self.established else b""

    def seal(self, data: Buffer) -> bytes:
        """Return the bytes to be sent in place of these."""
        with self._lock:
            self._tls.write(data)
            return self._to_send.read()

    def outgoing(self) -> bytes:
        """Return what TLS itself has to say."""
        with self._lock:
            return self._to_send.read()

    def certificate(self) -> bytes:
        """Return the other end's certificate, in DER."""
        return self._tls.getpeercert(binary_form=True) or b""

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.established = True

    def _read(self) -> bytes:
        found = []
        try:
            while piece := self._tls.read(RECORD_BYTES):
                found.append(piece)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return b"".join(found)


class TlsSocket(FrameSocket):
    """Frames over TLS over a connected socket."""

    def __init__(self, sock: socket.socket, stream: TlsStream, *, in_parts: bool = True) -> None:
        super().__init__(sock, in_parts=in_parts)
        self._stream = stream

    def _write(self, data: Buffer) -> None:
        view = memoryview(data)
        for at in range(0, len(view), RECEIVE_BYTES):
            self._sock.sendall(self._stream.seal(view[at : at + RECEIVE_BYTES]))

    def _write_vectors(self, buffers: list[Buffer]) -> None:
        for buffer in buffers:
            self._write(memoryview(buffer).cast("B"))

    def _read(self, flags: int) -> bytes:
        while True:
            data = super()._read(flags)
            if not data:
                return b""
            if found := self._stream.feed(data):
                return found


def connect_tls(sock: socket.socket, trust: Trust, *, host: str, where: str, in_parts: bool = True) -> TlsSocket:
    """Make a connected socket a TLS one to a server that is believed.

    Raises:
        PermissionDenied: it is not the server that is trusted here.
        ConnectionFailed: it does not speak TLS, or closed the connection.
    """
    stream = TlsStream(trust.context(), host=host)
    stream.start()
    try:
        while not stream.established:
            sock.sendall(stream.outgoing())
            data = sock.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionFailed(f"The server at {where} closed the connection before TLS was set up.")
            if data.startswith(MAGIC):
                raise ConnectionFailed(
                    f"The server at {where} does not speak TLS: it listens on its own machine only. From there, or "
                    "through a tunnel, use it without a fingerprint or CA; from elsewhere, start it with "
                    "`stoker server start --listen` and an address of its network."
                )
            stream.feed(data)
        sock.sendall(stream.outgoing())
    except ssl.SSLCertVerificationError as error:
        raise PermissionDenied(
            f"The certificate of the server at {where} is not to be believed: {error.verify_message}. For a "
            "certificate that the server made itself, give the fingerprint that `stoker server status` shows on its "
            "machine (--fingerprint, STOKER_FINGERPRINT); for one of your own CA, that CA's file (--ca, STOKER_CA)."
        ) from None
    except ssl.SSLError as error:
        raise ConnectionFailed(f"No TLS with the server at {where}: {error.reason or error}.") from error
    trust.check(stream.certificate(), where=where)
    return TlsSocket(sock, stream, in_parts=in_parts)

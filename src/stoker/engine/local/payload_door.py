"""The agent's door for its workers' payloads, and its ear for what the server says of those: one object, started once.

The door is a Unix socket in the run's own directory; what is said there stands in `stoker.transport.node_segments`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
import threading

from stoker.engine.local.config import AgentConfig
from stoker.engine.local.data_links import DataLinks
from stoker.engine.local.node_payloads import NodePayloads
from stoker.errors import ConnectionFailed, InvalidRequest, StokerError
from stoker.protocol.data_messages import Drop, WatchDrops
from stoker.transport.sockets import FrameSocket

LINE_MAX_BYTES = 4096  # a name has 128 characters
LISTEN_AGAIN_SECONDS = 0.5
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of the peer
log = logging.getLogger("stoker.agent")


class PayloadDoor:
    """See the module."""

    def __init__(self, config: AgentConfig, links: DataLinks) -> None:
        self.payloads = NodePayloads(config.segments, links)
        self._path = config.payload_socket
        self._links = links
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self._ending = threading.Event()
        self._listener: FrameSocket | None = None
        self._term = 0
        self._ear = threading.Thread(target=self._listen, name="payload-news", daemon=True)

    async def open(self) -> None:
        """Serve workers, and listen to the server."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=LINE_MAX_BYTES)
        self._ear.start()

    async def close(self) -> None:
        """Serve nobody any more, and leave nothing behind."""
        self._ending.set()
        if self._server is not None:
            self._server.close()
        await self.payloads.close()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        if self._ear.is_alive():
            await asyncio.to_thread(self._ear.join)
        self._path.unlink(missing_ok=True)

    # Workers

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            if _uid(writer) == os.getuid():
                answer = await self._answer(await reader.readline())
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError) as error:
            log.warning("a conversation about payloads broke: %s", error)
        finally:
            self._conversations.discard(task)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, object]:
        try:
            try:
                name = json.loads(line)["bring"]
            except (ValueError, LookupError, TypeError):
                raise InvalidRequest(f"{line[:80]!r} asks for no payload.") from None
            await self.payloads.bring(str(name))
        except StokerError as error:
            return {"error": {"type_name": type(error).__name__, "message": str(error), "fields": error.fields}}
        return {"ok": True}

    # The server

    def _listen(self) -> None:
        said = ""
        while not self._ending.is_set():
            try:
                self._hear()
            except (OSError, StokerError) as error:
                if not self._ending.is_set() and str(error) != said:
                    said = str(error)
                    log.warning("no news of payloads: %s", error)
            self._ending.wait(LISTEN_AGAIN_SECONDS)

    def _hear(self) -> None:
        link, welcome = self._links.listen()
        try:
            if welcome.term != self._term:
                # It does not know what was brought in an earlier term, and would never say that it may go.
                if self._term:
                    self.payloads.drop_all()
                self._term = welcome.term
            link.send(WatchDrops())
            while True:
                message = link.receive().message
                if not isinstance(message, Drop):
                    raise ConnectionFailed(f"The server sent a {type(message).__name__}, which is no news of payloads.")
                self.payloads.drop(message.names)
        finally:
            self._links.release(link)


def _uid(writer: asyncio.StreamWriter) -> int:
    sock = writer.get_extra_info("socket")
    uid: int = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
    return uid

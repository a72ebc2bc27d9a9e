"""Payload segments of a node whose server is on another machine: what is not here its agent brings, once for all.

The agent listens on a Unix socket of this user's. One line asks, one answers:

    {"bring": "<name>"}  →  {"ok": true}  |  {"error": {"type_name": …, "message": …, "fields": {…}}}

An answer comes when the whole segment is there, checked. It may be gone again when it is opened, where the node's room
for payloads is small: then it is asked for once more.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from stoker.errors import ConnectionFailed, NotFound, StokerError, from_wire
from stoker.transport.segments import SegmentDir

ANSWER_MAX_BYTES = 64 << 10
PATIENCE_SECONDS = 60.0  # for an agent that is replaced, or whose server is: as long as a server keeps what it owes
RETRY_SECONDS = 0.2
TRIES = 3  # for one that is dropped between being brought and being opened


class NodeSegments(SegmentDir):
    """A node's directory of segments; `map` has what is missing brought. Blocks; safe from any thread."""

    def __init__(self, path: str | Path, agent: str | Path) -> None:
        super().__init__(path)
        self._agent = str(agent)

    def map(self, name: str, *, writable_private: bool = True) -> memoryview:
        """Map a segment, once it is here; see `SegmentDir.map`.

        Raises:
            NotFound: the server does not have it any more.
            ConnectionFailed: neither agent nor server answered.
            StokerError: it arrived damaged, or there is no room for it.
        """
        for _ in range(TRIES):
            try:
                return super().map(name, writable_private=writable_private)
            except NotFound:
                self._bring(name)
        return super().map(name, writable_private=writable_private)

    def _bring(self, name: str) -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = self._ask(name)
            except (OSError, ValueError) as error:
                problem: StokerError = ConnectionFailed(
                    f"Payload {name} could not be brought to this node: its agent does not answer ({error})."
                )
            else:
                if "error" not in answer:
                    return
                told = answer["error"]
                problem = from_wire(told["type_name"], told["message"], told.get("fields"))
                if not isinstance(problem, ConnectionFailed):
                    raise problem
            if time.monotonic() >= give_up:
                raise problem
            time.sleep(RETRY_SECONDS)

    def _ask(self, name: str) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as agent:
            agent.connect(self._agent)
            agent.sendall(json.dumps({"bring": name}).encode() + b"\n")
            line = b""
            while not line.endswith(b"\n"):
                data = agent.recv(4096)
                if not data or len(line) > ANSWER_MAX_BYTES:
                    raise ValueError("it closed the connection before it answered")
                line += data
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError(f"it answered {line[:80]!r}")
        return answer

"""What calls that came over HTTP were asked by, and the status that they were answered with: for people."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from stoker.core.calls import Call, Result, Segment
from stoker.errors import ProtocolError
from stoker.protocol.web_calls import decode_request
from stoker.server.gateway.problems import problem_of
from stoker.server.gateway.request_lines import PATH_CHARACTERS
from stoker.server.payloads import PayloadFiles
from stoker.types import Outcome

HTTP_SESSIONS = "http-"  # how the names of sessions begin whose calls came over HTTP
KEPT_ANSWERS = 2000
HEAD_BYTES = 64 << 10  # of a request in a file: its header is shorter
_STATUS = slice(5, 16)  # of an answer as it is encoded; a status and the comma behind it lie there


class WebRecord(NamedTuple):
    """``status`` is 0 while there is no answer."""

    method: str
    path: str
    status: int = 0

    @classmethod
    def read(cls, request: str, status: int) -> WebRecord | None:
        """Return what a store says of a call; None where it did not come over HTTP."""
        method, _, path = request.partition(" ")
        return cls(method, path, status) if request else None

    def row(self) -> dict[str, Any]:
        return {"method": self.method, "path": self.path, "status": self.status or None}


class WebRecords:
    """The latest answers of calls that are attached, which leave no row."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[str, bytes, int]] = OrderedDict()

    def answered(self, call_id: str, method: str, path: bytes, status: int) -> None:
        """Take note of an answer; ``path`` as it was written. On the hot path: few of them are ever looked at."""
        self._kept[call_id] = method, path[:PATH_CHARACTERS], status
        if len(self._kept) > KEPT_ANSWERS:
            self._kept.popitem(last=False)

    def get(self, call_id: str) -> WebRecord | None:
        found = self._kept.get(call_id)
        return None if found is None else WebRecord(found[0], found[1].decode("ascii", "replace"), found[2])


def asked_by(call: Call, files: PayloadFiles) -> WebRecord | None:
    """Return what a call that has not ended was asked by; None where it did not come over HTTP."""
    payload = call.payload
    try:
        request = decode_request(_head_of(payload, files) if isinstance(payload, Segment) else payload)
    except (ProtocolError, OSError):
        return None
    root = request.root or f"/{call.label.replace('.', '/')}"
    return WebRecord(request.method, f"{root}{request.path}")


def status_of(result: Result, payload: bytes, file: str, files: PayloadFiles) -> int:
    """Return the status that a call which came over HTTP is answered with; its answer is these bytes or that file's."""
    if result.outcome is not Outcome.VALUE:
        return problem_of(result.outcome, result.error).status
    try:
        head = _head_of(Segment(file, 0), files) if file else payload
        return int(bytes(head[_STATUS]).lstrip(b"[").partition(b",")[0])
    except (OSError, ValueError):
        return 500  # it is no answer, and whoever fetches it is told so


def _head_of(segment: Segment, files: PayloadFiles) -> bytes:
    path = files.segments / segment.name
    with (path if path.exists() else files.spill / segment.name).open("rb") as file:
        return file.read(HEAD_BYTES)

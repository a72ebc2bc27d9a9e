"""What calls that came over HTTP were asked by, and the status that they were answered with: for people."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from typing import Any, NamedTuple

from stoker.core.calls import Call, Result, Segment
from stoker.errors import ProtocolError
from stoker.protocol.encoded import Buffer
from stoker.protocol.web_calls import VALUE_FOLLOWS, decode_request, split_answer
from stoker.server.gateway.problems import problem_of
from stoker.server.payloads import PayloadFiles
from stoker.types import Outcome

HTTP_SESSIONS = "http-"  # how the names of sessions begin whose calls came over HTTP
KEPT_ANSWERS = 2000
PATH_CHARACTERS = 200  # of a longer one the beginning; of the query nothing, as it may hold secrets
REFUSAL_BYTES = 4 << 10  # an answer that is longer is not looked at
REASON_CHARACTERS = 200
HEAD_BYTES = 64 << 10  # of a request in a file: its header is shorter
_REFUSALS = ("BadRequest", "ValidationError")  # what a worker answers by itself, before the user's code has begun
_MORE = re.compile(r" \(and [0-9]+ more\)$")  # how many things are wrong besides
_STATUS = slice(5, 16)  # of an answer as it is encoded; a status and the comma behind it lie there


class WebRecord(NamedTuple):
    """``status`` is 0 while there is no answer; ``reason`` says why the request was refused, if it was."""

    method: str
    path: str
    status: int = 0
    reason: str = ""

    @classmethod
    def read(cls, request: str, status: int = 0, answer: bytes = b"") -> WebRecord | None:
        """Return what a store says of a call; None where it did not come over HTTP."""
        method, _, path = request.partition(" ")
        return cls(method, path, status, _reason_in(status, answer)) if request else None

    def row(self) -> dict[str, Any]:
        return {"method": self.method, "path": self.path, "status": self.status or None, "reason": self.reason}


class WebRecords:
    """The latest answers of calls that are attached, which leave no row."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[str, bytes, int, str, bytes]] = OrderedDict()

    def answered(
        self, call_id: str, method: str, path: bytes, status: int, refusal: Buffer = b"", *, request_id: bytes = b""
    ) -> None:
        """Take note of an answer; ``path`` as it was written. On the hot path: few of them are ever looked at.

        ``refusal`` is the body of one whose status is 4xx.
        """
        reason = reason_of(refusal) if refusal else ""
        self._kept[call_id] = method, path[:PATH_CHARACTERS], status, reason, request_id
        if len(self._kept) > KEPT_ANSWERS:
            self._kept.popitem(last=False)

    def get(self, call_id: str) -> WebRecord | None:
        found = self._kept.get(call_id)
        if found is None:
            return None
        method, path, status, reason, _ = found
        return WebRecord(method, path.decode("ascii", "replace"), status, reason)

    def call_of(self, request_id: str) -> str:
        """Return the latest call of a request, by the id that its answer had in X-Request-Id; or nothing."""
        wanted = request_id.encode("latin-1", "replace")
        return next((call_id for call_id, kept in reversed(self._kept.items()) if wanted and kept[-1] == wanted), "")

    def request_of(self, call_id: str) -> str:
        """Return the id of the request that a call was; nothing where that is not known any more."""
        found = self._kept.get(call_id)
        return found[-1].decode("latin-1") if found is not None else ""


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


def is_refusal(status: int) -> bool:
    """Tell whether an answer may say what was wrong with the request."""
    return 400 <= status < 500


def reason_of(body: Buffer) -> str:
    """Return what an answer says is wrong with the request, less the value that it had; nothing of an answer that the
    user's code has made."""
    if len(body) > REFUSAL_BYTES or bytes(body[:9]) != b'{"error":':
        return ""
    try:
        error = json.loads(bytes(body))["error"]
        said = f"{error['type']}: {_without_value(error['message'])}" if error["type"] in _REFUSALS else ""
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""
    said = "".join(one if one.isprintable() else "�" for one in said)  # names of fields are the client's, to the letter
    return said if len(said) <= REASON_CHARACTERS else f"{said[:REASON_CHARACTERS]}…"


def _without_value(message: str) -> str:
    """Return a message without the value that the request had: it may be a secret, and is for who sent it alone."""
    kept, found, rest = message.partition(VALUE_FOLLOWS)
    more = _MORE.search(rest) if found else None
    return f"{kept}{more[0]}" if more else kept


def _reason_in(status: int, answer: bytes) -> str:
    try:
        return reason_of(split_answer(answer)[1]) if is_refusal(status) and answer else ""
    except ProtocolError:
        return ""


def _head_of(segment: Segment, files: PayloadFiles) -> bytes:
    path = files.segments / segment.name
    with (path if path.exists() else files.spill / segment.name).open("rb") as file:
        return file.read(HEAD_BYTES)

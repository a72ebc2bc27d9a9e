"""What is said over HTTP where there is no answer: a status, and ``{"error": {"type", "message", "call_id"}}``."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import msgspec

from stoker.core.disclosure import public
from stoker.types import ErrorInfo, Outcome

STATUSES = {
    "NotFound": 404,
    "PermissionDenied": 403,
    "Overloaded": 503,
    "RateLimited": 429,
    "Unschedulable": 503,
    "CallTimeout": 504,
    "DeadlineExceeded": 504,
    "CallCancelled": 409,  # somebody here has cancelled it: not the client, which would not be there to be told
    "StartupError": 503,
    "StoreUnavailable": 503,
}

# Their words are paths of this machine, and a resolver's: for the owner. Not 503, since to ask again does not help.
NO_ENVIRONMENT = frozenset({"ImageBuildError", "InterpreterNotFound"})
NO_STORE = frozenset({"StoreError", "StoreUnavailable", "Fenced"})  # their words name its place, and a driver's advice
OWN_MODULE = (
    "stoker.errors."  # of an error of Stoker's own that user code has raised, or let pass: of another call, say
)

Pairs = list[tuple[bytes, bytes]]


class Problem(Exception):
    """A request that is not answered by a function."""

    def __init__(
        self, status: int, kind: str, message: str, *, headers: dict[str, str] | None = None, closes: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.headers = dict(headers or {})
        if closes:
            self.headers["connection"] = "close"

    def body(self, *, call_id: str = "") -> bytes:
        return error_body(self.kind, str(self), call_id=call_id)


def error_body(kind: str, message: str, *, call_id: str = "", **more: Any) -> bytes:
    error = {"type": kind, "message": message, "call_id": call_id or None, **more}
    return msgspec.json.encode({"error": error})


def whole_answer(status: int, body: bytes, *, headers: Pairs | None = None, closes: bool = True) -> bytes:
    """Return an answer as it goes over the wire; ``closes``: after which the connection is closed."""
    phrase = HTTPStatus(status).phrase.encode()
    ends = b"connection: close\r\n\r\n" if closes else b"\r\n"
    head = b"content-type: application/json\r\ncontent-length: %d\r\n%b" % (len(body), ends)
    more = b"".join(b"%b: %b\r\n" % pair for pair in headers or ())
    return b"HTTP/1.1 %d %b\r\n%b%b%b" % (status, phrase, more, head, body)


def problem_of(outcome: Outcome, error: ErrorInfo | None) -> Problem:
    """Return what is said of a call that ended without a value. A user's traceback stays in the logs."""
    if error is None:
        kind = "CallCancelled" if outcome is Outcome.CANCELLED else "StokerError"
        return Problem(STATUSES.get(kind, 500), kind, "The call ended without an answer.")
    status = 500 if "." in error.type_name else STATUSES.get(error.type_name, 500)
    headers = {}
    if status == 503:
        headers["retry-after"] = str(max(1, math.ceil(float(error.fields.get("retry_after", 1.0)))))
    return Problem(status, error.name.removeprefix(OWN_MODULE), told_of(error), headers=headers)


def told_of(error: ErrorInfo) -> str:
    """Return the message of an error as anybody may read it: a user's own whole, of Stoker's what happened."""
    kind = error.type_name.removeprefix(OWN_MODULE)
    if "." in kind:
        return error.message
    if kind in NO_ENVIRONMENT:
        label = error.fields.get("function") or "The function"
        return (
            f"{label} cannot be run: its environment could not be built, or is not what it was. Whoever deployed it "
            "finds the cause by `stoker apps list` and in its logs."
        )
    if kind in NO_STORE:
        return "What the server keeps could not be read or written just now. Its log says why."
    return public(error.message)

"""Which call this code runs for: set by the runner, read by the client library in a worker and by the output streams.

It follows a call through its own thread and tasks. Threads that user code starts see it too in a worker that runs one
call at a time; in a concurrent one they belong to no call, since nobody knows to which.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from stoker.types import GangSeat

SERVER_VARIABLE = "STOKER_SERVER"  # where calls go: in a worker a Unix socket, elsewhere also stoker://HOST:PORT
TOKEN_VARIABLE = "STOKER_TOKEN"
FINGERPRINT_VARIABLE = "STOKER_FINGERPRINT"
APP_VARIABLE = "STOKER_APP"
RUN_ID_VARIABLE = "STOKER_RUN_ID"


class CurrentCall:
    """The call that runs: its id, which attempt this is, whether somebody asked it to stop, whether it has printed.

    ``cancelled`` is for sync functions that run concurrently as threads: nothing can interrupt those, so they look.
    ``trace`` is the W3C ``traceparent`` that it belongs to, if any.
    """

    __slots__ = ("cancelled", "id", "number", "printed", "seat", "trace")

    def __init__(self, call_id: str, number: int) -> None:
        self.id = call_id
        self.number = number
        self.cancelled = False
        self.printed = False  # itself, or a call that it has made
        self.seat: GangSeat | None = None  # its place in a gang
        self.trace = ""


@dataclass(frozen=True)
class WorkerIdentity:
    """The worker that this process is; ``function`` is `FunctionSpec.key`."""

    worker: str
    app: str
    name: str
    function: str
    run_id: str = ""
    segments: str = ""  # where big payloads of this node lie, if the server is on another machine
    payload_socket: str = ""  # where they are asked for


_call: ContextVar[CurrentCall | None] = ContextVar("stoker_current_call", default=None)
_only_call: CurrentCall | None = None
_identity: WorkerIdentity | None = None
_loading = ""


@contextmanager
def loading(label: str) -> Iterator[None]:
    """Say that a worker's code is being imported: what calls functions then would do so in every worker in turn."""
    global _loading
    _loading = label
    try:
        yield
    finally:
        _loading = ""


def being_loaded() -> str:
    """Return the label of the function whose module is being imported for it, an empty text outside of that."""
    return _loading


def current_call() -> CurrentCall | None:
    """Return the call that this code runs for, None outside of one."""
    return _call.get() or _only_call


def current_trace() -> str:
    """Return the W3C ``traceparent`` of what runs here: OpenTelemetry's current span, where the program uses it, else
    that of the call that this code runs for; empty where it belongs to no trace."""
    api: Any = sys.modules.get("opentelemetry.trace")  # not imported: who has spans has it
    current_span = getattr(api, "get_current_span", None)
    if current_span is not None:
        span = current_span().get_span_context()
        if span.is_valid:
            return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags & 1:02x}"
    call = current_call()
    return call.trace if call is not None else ""


def worker_identity() -> WorkerIdentity | None:
    """Return what this process is, None outside of a worker."""
    return _identity


def enter_call(call: CurrentCall | None) -> None:
    """Say that what follows in this context is for this call."""
    _call.set(call)


def enter_only_call(call: CurrentCall | None) -> None:
    """Say that whatever runs in this process now is for this call."""
    global _only_call
    _only_call = call


def become_worker(identity: WorkerIdentity, *, server: str, token: str, fingerprint: str = "") -> None:
    """Make this process a worker: nested calls go to its server with its own token."""
    global _identity
    _identity = identity
    os.environ[SERVER_VARIABLE] = server
    os.environ[TOKEN_VARIABLE] = token
    if fingerprint:
        os.environ[FINGERPRINT_VARIABLE] = fingerprint
    os.environ[APP_VARIABLE] = identity.app
    os.environ[RUN_ID_VARIABLE] = identity.run_id

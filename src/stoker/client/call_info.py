"""`call_info`: which call code runs for, and which trace that belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.errors import InvalidRequest
from stoker.transport.current import current_call


@dataclass(frozen=True)
class CallInfo:
    """The call that this code runs for.

    Attributes:
        id: as in `Call.id`, ``stoker calls show`` and ``X-Stoker-Call-Id``.
        attempt: which attempt of it this is, from 1.
        traceparent: the trace that it belongs to, as the header of that name says it (W3C Trace Context): that of the
            request over HTTP, or of the code that made the call. Empty where it belongs to none.
    """

    id: str
    attempt: int
    traceparent: str


def call_info() -> CallInfo:
    """Return which call this code runs for.

    Raises:
        InvalidRequest: it runs for none: not in a worker, or in a thread of a worker that runs several calls at once.
    """
    call = current_call()
    if call is None:
        raise InvalidRequest(
            "call_info() was called outside of a call. It is for functions while they run remotely, in the thread or "
            "task that runs them."
        )
    return CallInfo(call.id, call.number, call.trace)

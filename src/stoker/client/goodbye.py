"""The end of a session: the last output is waited for, an embedded server ends, one that is gone is not waited for.

A persistent server that went away may be restarting, and then has output for this program still. So it is given a
moment, from when it went away; after that nothing would come of waiting, and what it was not told is said.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stoker.client import notices
from stoker.client.calls import Pending
from stoker.errors import StokerError

if TYPE_CHECKING:
    from stoker.client.session import Session

FLUSH_LOGS_SECONDS = 5.0  # how long the end of a program waits for the last output of its workers
CLEAN_UP_SECONDS = 10.0  # the grace of cancelled calls, in which they may print as well
SHUTDOWN_SECONDS = 10.0
AWAY_MAX_SECONDS = 1.0  # since the connection broke: an orderly restart takes less
LOOK_EVERY_SECONDS = 0.1


class _ServerGone(Exception):
    """The server went away and is not back."""


def say_goodbye(session: Session) -> None:
    """Have the last output sent, and an embedded server end. Neither is waited for in vain.

    A server elsewhere does not see this process end, and would wait for it to come back.
    """
    last_word = "shutdown" if session.embedded else "leave" if session.endpoint.is_remote else ""
    if not session.embedded:  # its own server is started again by the connection, and ends what runs in order
        session.connection.dial_timeout = AWAY_MAX_SECONDS
    try:
        with contextlib.suppress(StokerError, TimeoutError):
            session.reader.do_chores()  # a stream that was just dropped is closed before its last output is awaited
            _ask(session, "flush", {"ended": True}, timeout=CLEAN_UP_SECONDS + FLUSH_LOGS_SECONDS)
        if last_word:
            session.connection.closing = True
            with contextlib.suppress(StokerError, TimeoutError):
                _ask(session, last_word, {}, timeout=SHUTDOWN_SECONDS)
    except _ServerGone:
        missed = undelivered(session.connection.calls.all(), output=session.output_missing)
        if missed:
            notices.warn(
                f"The server at {session.endpoint.path} went away and was not back when this program ended. "
                f"{missed} See `stoker calls list` when it is back."
            )


def undelivered(pendings: Iterable[Pending], *, output: bool) -> str:
    """Say what a server that is gone was not told, or has not told; empty when nothing is missing.

    Attached calls are not among it: their callers have waited for them, and are told.
    """
    spawned = [pending for pending in pendings if pending.route.detached]
    unsure = sum(not pending.accepted for pending in spawned)
    cancelled = sum(bool(pending.accepted and pending.cancelled) for pending in spawned)
    said = []
    if unsure:
        said.append(f"{_calls(unsure)} may not have been accepted.")
    if cancelled:
        said.append(f"{_calls(cancelled)} may not have been cancelled.")
    if output:
        said.append("Output of calls that ended may be missing here: `stoker logs` has it.")
    return " ".join(said)


def _calls(count: int) -> str:
    return "1 spawned call" if count == 1 else f"{count} spawned calls"


def _ask(session: Session, verb: str, params: dict[str, Any], *, timeout: float) -> None:
    """Ask something and wait for the answer, for as long as the server is there to give one.

    Raises:
        _ServerGone: it is not.
    """
    request = session.connection.request(verb, params)
    give_up = time.monotonic() + timeout
    while not (request.waiter.ready or session.failed):
        now = time.monotonic()
        if now >= give_up:
            raise TimeoutError
        lost_at = session.connection.lost_at
        if lost_at is not None and not session.embedded and now - lost_at >= AWAY_MAX_SECONDS:
            raise _ServerGone
        session.reader.wait(request.waiter, min(give_up, now + LOOK_EVERY_SECONDS))

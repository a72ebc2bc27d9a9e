"""Asking the persistent server: the one that programs use, or the one on this machine."""

from __future__ import annotations

from typing import Any

from stoker.client import session as sessions
from stoker.client.endpoints import local_endpoint
from stoker.client.session import Session
from stoker.errors import ConnectionFailed

TIMEOUT_SECONDS = 30.0  # it answers from memory; only a machine that hangs takes longer


def persistent_session() -> Session:
    """Return a session with the persistent server.

    Raises:
        ConnectionFailed: none runs.
    """
    if sessions.persistent_endpoint() is None:
        raise ConnectionFailed(
            "No server runs. Start one with `stoker server start`: it then keeps apps, calls and logs. What "
            "`stoker run` starts by itself ends with its program."
        )
    return sessions.current()


def ask(verb: str, **params: Any) -> Any:
    """Ask the persistent server something; parameters that are None are left out.

    Raises:
        ConnectionFailed: none runs.
        StokerError: its answer.
    """
    return persistent_session().request(verb, _given(params), timeout=TIMEOUT_SECONDS)


def ask_until_ready(verb: str, **params: Any) -> Any:
    """Ask as `ask` does what is answered once workers have started; the server ends that wait itself."""
    return persistent_session().request(verb, _given(params))


def _given(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def ask_local(verb: str, **params: Any) -> Any:
    """Ask the persistent server of this machine, whichever one programs use.

    Raises:
        ConnectionFailed: none runs here.
        StokerError: its answer.
    """
    endpoint = local_endpoint()
    if endpoint is None:
        raise ConnectionFailed(
            "No server of yours runs on this machine. Start one with `stoker server start`; for one elsewhere, do this "
            "on its machine."
        )
    session = Session(endpoint)
    try:
        return session.request(verb, params, timeout=TIMEOUT_SECONDS)
    finally:
        session.close()

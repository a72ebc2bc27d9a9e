"""Tells an app of WSGI from one of ASGI by what it can be called with, so that the wrong decorator is named at once."""

from __future__ import annotations

import inspect
from typing import Any

from stoker.errors import InvalidRequest

_ARGUMENTS = {"asgi": ("scope", "receive", "send"), "wsgi": ("environ", "start_response")}


def check_kind(app: Any, kind: str, *, label: str) -> None:
    """Refuse an app that can be called as one of the other kind only; one that says nothing of it is tried.

    Raises:
        InvalidRequest: it is one of the other kind.
    """
    other = "asgi" if kind == "wsgi" else "wsgi"
    if not _takes(app, kind) and _takes(app, other):
        *first, last = _ARGUMENTS[other]
        raise InvalidRequest(
            f"{label} has returned an app of {other.upper()} ({type(app).__name__}, which is called with "
            f"{', '.join(first)} and {last}). Put @stoker.{other}_app() in place of @stoker.{kind}_app()."
        )


def _takes(app: Any, kind: str) -> bool:
    try:
        inspect.signature(app).bind(*_ARGUMENTS[kind])
    except ValueError:
        return True  # made in C, say: nobody knows
    except TypeError:
        return False
    return True

"""Tracebacks as users want them: their own lines, and not the way of an error through Stoker.

With ``STOKER_DEBUG`` in the environment, everything is shown.
"""

from __future__ import annotations

import os
from typing import TypeVar

DEBUG_VARIABLE = "STOKER_DEBUG"

E = TypeVar("E", bound=BaseException)


def trimmed(error: E) -> E:
    """Return an error to be raised anew by a public method: what it came through beneath that is left out.

    For errors that come from elsewhere (a worker, the server), not for those that user code has raised here.
    """
    return error if os.environ.get(DEBUG_VARIABLE) else error.with_traceback(None)


def add_note(error: BaseException, text: str) -> None:
    """Add a line that is shown below an error's message: as `BaseException.add_note`, which Python 3.10 has not."""
    notes = getattr(error, "__notes__", None)
    error.__notes__ = [*(notes if isinstance(notes, list) else []), text]  # type: ignore[attr-defined, unused-ignore]

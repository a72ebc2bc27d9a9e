"""What an error says to anybody who can send a request.

Stoker's own errors say in their first line what happened. What is for the owner of the code alone stands below it: the
last output of a worker, tracebacks, the stacks of its threads, paths of a machine. So over HTTP the first line is told.
It may end with a sentence that announces the rest, which is then left out as well.
"""

from __future__ import annotations

PLACE = " It was here:"
OUTPUT = " Its output until then:"
DETAILS = " The details:"
_ANNOUNCEMENTS = (PLACE, OUTPUT, DETAILS)


def public(message: str) -> str:
    """Return what anybody may be told of the message of an error of Stoker's own."""
    first = message.partition("\n")[0].rstrip()
    return next((first.removesuffix(one) for one in _ANNOUNCEMENTS if first.endswith(one)), first)

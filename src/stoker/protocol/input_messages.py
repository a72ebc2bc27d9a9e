"""What a call's client sends while the call runs, between the server and the worker that asks for it.

server ── Inputs ──► worker, its lease socket
server ◄── AskInputs ── worker, its lease socket
"""

from __future__ import annotations

from dataclasses import field

from stoker.protocol.message_class import message


@message
class AskInputs:
    """A worker wants more of what a call's client sends while the call runs: the body of a request, or messages.

    It has had ``had`` pieces, and has room for ``upto`` bytes in all, of which the last piece may go beyond.
    """

    id: str
    attempt: int
    had: int
    upto: int


@message
class Inputs:
    """The next pieces of what a call's client sends. ``end``: why no more will come, one of `stoker.types.InputEnd`."""

    id: str
    attempt: int
    sizes: list[int] = field(default_factory=list)
    end: int = 0

"""The messages of a node's data connections: what it fetches of its server, and what nodes agree on."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from stoker.protocol.message_class import message


@message
class Fetch:
    """Send me what lies under this name: ``payload`` · ``blob`` · ``blob_size``. One at a time on a connection.

    Answered by `Part` frames and `Fetched`, or by `FetchFailed`, which may come after some of the parts.
    """

    kind: str
    name: str


@message
class Fetched:
    """All of it was sent. ``digest`` is the CRC-32 of the bytes as the sender read them; empty where none were."""

    size: int
    digest: str = ""


@message
class FetchFailed:
    """It cannot be sent, or no further. ``type_name`` is one of `stoker.errors`."""

    type_name: str
    message: str
    fields: dict[str, Any] = field(default_factory=dict)


@message
class AgreeLock:
    """A node has resolved a recipe to this lock; with no text it asks for the one that others have, before it does.

    Answered by `AgreedLock` or `FetchFailed`; like `Fetch`, one at a time on a connection.
    """

    name: str
    text: str = ""


@message
class AgreedLock:
    """The lock that all nodes install by: the first that was proposed. Empty where there is none yet."""

    text: str


@message
class WatchDrops:
    """Tell this connection what need not be kept on its node any more."""


@message
class Drop:
    """The calls of these payloads are over: what a node has of them may go."""

    names: list[str]

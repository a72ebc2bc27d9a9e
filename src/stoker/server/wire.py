"""Frames in and out of the server: msgspec reads and checks headers straight into the messages' dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stoker.errors import ProtocolError
from stoker.protocol.frames import Buffer, encode_prefix
from stoker.protocol.messages import KIND_OF, KINDS

_DECODERS: dict[int, msgspec.json.Decoder[Any]] = {kind: msgspec.json.Decoder(cls) for kind, cls in KINDS.items()}
_ENCODER = msgspec.json.Encoder()
_JOIN_MAX_BYTES = 64 << 10  # above this, copying costs more than another buffer in the same system call


def decode(kind: int, header: bytes) -> Any:
    """Return the message of a frame.

    Raises:
        ProtocolError: an unknown kind, or not this message's fields.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise ProtocolError(f"There is no message of kind {kind}.")
    try:
        return decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"A {KINDS[kind].__name__} is malformed: {error}") from None


def encode(message: Any, parts: Sequence[Buffer] = ()) -> list[Buffer]:
    """Return a frame as the buffers to be written, small parts joined."""
    header = _ENCODER.encode(message)
    size = sum(map(len, parts)) if parts else 0
    head = encode_prefix(KIND_OF[type(message)], len(header), size) + header
    if size <= _JOIN_MAX_BYTES:
        return [b"".join((head, *parts))] if parts else [head]
    return [head, *parts]

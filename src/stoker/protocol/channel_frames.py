"""The two frames of every call on a channel, written without a JSON encoder; see `messages.ChannelCall`.

They are the same bytes that `encode_header` writes; a test holds them to that. A call's id needs no escaping: it is the
client's own, of letters, digits and dots.
"""

from __future__ import annotations

import re

from stoker.protocol.frames import encode_prefix
from stoker.protocol.messages import KIND_OF, ChannelAnswer, ChannelCall
from stoker.protocol.structure import encode_header

CALL = KIND_OF[ChannelCall]
ANSWER = KIND_OF[ChannelAnswer]
VALUE_HEADER = encode_header(ChannelAnswer())[1]
PAYLOAD_MAX_BYTES = 64 << 10  # one read, and well under a socket's buffer: neither end waits for the other in a write

_CALL_START, _CALL_END = encode_header(ChannelCall("|"))[1].split(b"|")
_CALL = re.compile(re.escape(_CALL_START) + rb"([A-Za-z0-9._-]{1,128})" + re.escape(_CALL_END))


def call_frame(call_id: str, payload: bytes, *, trace: str = "") -> bytes:
    """Return a `ChannelCall` and its input."""
    if trace:  # the worker reads it as any other message
        header = encode_header(ChannelCall(call_id, trace))[1]
    else:
        header = b"%b%b%b" % (_CALL_START, call_id.encode(), _CALL_END)
    return b"%b%b%b" % (encode_prefix(CALL, len(header), len(payload)), header, payload)


def value_frame(payload: bytes) -> bytes:
    """Return the `ChannelAnswer` of a call that returned a value."""
    return b"%b%b%b" % (encode_prefix(ANSWER, len(VALUE_HEADER), len(payload)), VALUE_HEADER, payload)


def called_id(header: bytes) -> str:
    """Return the id in the header of a `ChannelCall`; empty where it is written in another way."""
    found = _CALL.fullmatch(header)
    return found[1].decode() if found is not None else ""

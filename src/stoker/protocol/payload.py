"""The payload codec: arguments and results as bytes, and back. Pure; never used by the server, which opens nothing.

    client ── encode_call ──► bytes ── decode_call ──► worker ── encode_value ──► bytes ── decode ──► client

Pickle protocol 5 with the buffers out of band (`encoded` has the layout). Arrays, scalars and tensors go in a form that
other versions of NumPy read (`numpy_codec`, `torch_codec`); what cannot be imported where it arrives goes by value
(`by_value`); what cannot be opened there arrives as a `RemoteValue` (`loading`, `pickle_slices`); what cannot be
pickled is found and named (`unpicklable`); exceptions keep their type and attributes (`remote_exceptions`).
"""

from __future__ import annotations

from stoker.protocol.encoded import Encoded
from stoker.protocol.loading import decode, decode_call, set_main_alias
from stoker.protocol.remote_exceptions import RemoteTraceback, decode_exception, encode_exception
from stoker.protocol.remote_value import RemoteValue, UnopenedValue
from stoker.protocol.saving import encode, encode_call, encode_value, set_main_by_value

__all__ = [
    "Encoded",
    "RemoteTraceback",
    "RemoteValue",
    "UnopenedValue",
    "decode",
    "decode_call",
    "decode_exception",
    "encode",
    "encode_call",
    "encode_exception",
    "encode_value",
    "set_main_alias",
    "set_main_by_value",
]

"""The sending half of the payload codec: plain pickle where that does, by value where it must, else a clear error."""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Callable
from typing import Any, cast

from stoker.protocol import numpy_codec, torch_codec
from stoker.protocol.encoded import Buffer, Encoded, is_code, lay_out
from stoker.protocol.unpicklable import explain

IN_BAND_BYTES = 512  # a smaller buffer is cheaper inside the pickle than with an entry and padding of its own
_FRAME_MAX_BYTES = 256 << 10  # pickle's frames are at most about 128 KiB; a longer chunk is one object's data

_STACK_GLOBAL = b"\x93"  # a pickle without this byte names no global
_ATOMS = frozenset({int, float, bool, str, type(None)})

_main_by_value = False


class _Table(dict[type, Any]):
    """Reducers by exact type: ours, then those that users have registered with ``copyreg``."""

    def __missing__(self, kind: type) -> Any:
        return copyreg.dispatch_table[kind]


_TABLE = _Table()
_ARRIVALS: dict[str, tuple[Callable[[Any], bool], Callable[[numpy_codec.Table], None]]] = {
    "numpy": (numpy_codec.is_ready, numpy_codec.register),
    "numpy.random": (lambda module: hasattr(module, "RandomState"), numpy_codec.register_random),
    "torch": (torch_codec.is_ready, torch_codec.register),
}


def set_main_by_value(by_value: bool) -> None:
    """Choose how what is defined in ``__main__`` travels: by value, or by a name that the workers resolve.

    By value where workers cannot import ``__main__``: in a notebook, at a prompt, from standard input.
    """
    global _main_by_value
    _main_by_value = by_value


class _Outbox(list[Buffer]):
    """What a pickler writes to: its chunks, unjoined, and the buffers that are too big to lie inside."""

    __slots__ = ("buffers",)

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []

    write = list.append

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes <= IN_BAND_BYTES:
            return True
        self.buffers.append(raw)
        return False


class _Pickler(pickle.Pickler):
    dispatch_table = _TABLE


def encode(obj: object, *, root: str = "value") -> Encoded:
    """Encode one object; ``root`` is what a `SerializationError` calls it.

    Raises:
        SerializationError: something inside cannot be pickled; its ``path`` says what.
    """
    outbox = _Outbox()
    if not sys.modules.keys().isdisjoint(_ARRIVALS):
        _register_arrivals()
    code = None
    try:
        _Pickler(outbox, 5, buffer_callback=outbox.keep).dump(obj)
        by_value = _main_by_value and _mentions(outbox, b"__main__")
    except Exception:  # noqa: BLE001 - pickling runs users' code, which may raise anything
        by_value = True
    if by_value:
        outbox = _dump_by_value(obj, root)
        code = sys.version_info[:2] if is_code(_frames(outbox)) else None
    if not outbox.buffers:
        if len(outbox) == 1 and _STACK_GLOBAL not in cast("bytes", outbox[0]):
            return Encoded([outbox[0]], len(outbox[0]))
        if not _mentions(outbox, _STACK_GLOBAL):
            return Encoded(_settled(outbox))
    return lay_out(_settled(outbox), outbox.buffers, code)


def encode_value(value: object) -> Encoded:
    """Encode what a function returned or yielded; raises `SerializationError`."""
    if type(value) in _ATOMS:
        return Encoded([pickle.dumps(value, 5)])
    return encode(value, root="return value")


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Encoded:
    """Encode a call's arguments, as one object: what two of them share is still shared where they arrive.

    Raises:
        SerializationError: an argument cannot be pickled; its ``path`` begins ``args[0]`` or ``kwargs['x']``.
    """
    flat = (tuple(kwargs), *args, *kwargs.values())
    for value in flat[1:]:
        if type(value) not in _ATOMS:
            return encode(flat, root="")
    return Encoded([pickle.dumps(flat, 5)])


def _register_arrivals() -> None:
    for name, (is_ready, register) in list(_ARRIVALS.items()):
        module = sys.modules.get(name)
        if module is not None and is_ready(module):
            register(_TABLE)
            _ARRIVALS.pop(name, None)


def _frames(outbox: list[Buffer]) -> list[Buffer]:
    return [chunk for chunk in outbox if len(chunk) <= _FRAME_MAX_BYTES]


def _mentions(outbox: list[Buffer], text: bytes) -> bool:
    return any(len(chunk) <= _FRAME_MAX_BYTES and text in cast("bytes", chunk) for chunk in outbox)


def _settled(outbox: list[Buffer]) -> list[Buffer]:
    """Return the chunks as a plain list; a bytearray among them is the user's own, which may yet change its size."""
    return [bytes(chunk) if type(chunk) is bytearray else chunk for chunk in outbox]


def _dump_by_value(obj: object, root: str) -> _Outbox:
    outbox, error = _try_by_value(obj)
    if error is None:
        return outbox
    if root:
        raise explain(obj, root, error=error, attempt=_attempt) from error
    raise _explain_call(cast("tuple[Any, ...]", obj), error) from error


def _explain_call(flat: tuple[Any, ...], error: Exception) -> Exception:
    names = flat[0]
    split = len(flat) - len(names)
    for i, value in enumerate(flat[1:], 1):
        path = f"args[{i - 1}]" if i < split else f"kwargs[{names[i - split]!r}]"
        failure = None if type(value) in _ATOMS else _attempt(value)
        if failure is not None:
            return explain(value, path, error=failure, attempt=_attempt)
    return explain(flat, "arguments", error=error, attempt=_attempt)


def _attempt(obj: object) -> Exception | None:
    return _try_by_value(obj)[1]


def _try_by_value(obj: object) -> tuple[_Outbox, Exception | None]:
    outbox = _Outbox()
    try:
        from stoker.protocol.by_value import ByValuePickler

        ByValuePickler(outbox, buffer_callback=outbox.keep, table=_TABLE, main_by_value=_main_by_value).dump(obj)
    except Exception as error:  # noqa: BLE001 - pickling runs users' code, which may raise anything
        return outbox, error
    return outbox, None

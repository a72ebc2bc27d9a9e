"""The receiving half of the payload codec: opens payloads, and what it cannot open as a `RemoteValue`."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Sequence
from typing import Any

from stoker.errors import ProtocolError
from stoker.protocol.encoded import PLAIN, Buffer, Layout, is_code, lay_out, open_layout
from stoker.protocol.numpy_codec import resolve_global
from stoker.protocol.remote_value import RemoteValue

COPIED_STREAM_BYTES = 1 << 20  # a shorter pickle is copied into a BytesIO, which reads faster than a reader in Python

_WRAPPERS = frozenset({"builtins", "copyreg", "functools", "cloudpickle.cloudpickle", "collections"})
_REBUILT = {
    "rebuild_array": "numpy.ndarray",
    "rebuild_scalar": "NumPy scalar",
    "rebuild_text": "NumPy scalar",
    "build_dtype": "numpy.dtype",
    "rebuild_generator": "numpy.random.Generator",
    "rebuild_random_state": "numpy.random.RandomState",
    "rebuild_tensor": "torch.Tensor",
}

_MOVED = {"pathlib._local": "pathlib"}  # where only some versions of Python have a module, the one that all have

_main_alias = ""


def set_main_alias(module: str) -> None:
    """Open what is called ``module.name`` elsewhere as ``__main__.name`` here; "" for nothing.

    For the client that runs a script: its workers import that script as a module and answer with its classes.
    """
    global _main_alias
    _main_alias = module


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "numpy" or module.startswith("numpy."):
            module, name = resolve_global(module, name)
        elif module == _main_alias:
            module = "__main__"
        else:
            module = _MOVED.get(module, module)
        return super().find_class(module, name)


class _Reader:
    """Reads a view as a file, without copying it first."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._view) if size < 0 else self._at + size
        data = bytes(self._view[self._at : end])
        self._at += len(data)
        return data

    def readinto(self, target: Any) -> int:
        size = min(len(target), len(self._view) - self._at)
        target[:size] = self._view[self._at : self._at + size]
        self._at += size
        return size

    def readline(self) -> bytes:
        end = bytes(self._view[self._at : self._at + 4096]).find(b"\n") + 1
        return self.read(end or 4096)


def load(stream: Buffer, buffers: Sequence[memoryview]) -> Any:
    """Open one pickle; raises whatever the classes in it raise."""
    view = memoryview(stream)
    source: Any = io.BytesIO(view) if len(view) <= COPIED_STREAM_BYTES else _Reader(view)
    return _Unpickler(source, buffers=buffers).load()


def open_whole(payload: memoryview, layout: Layout) -> object:
    """Open a payload, or return it as a `RemoteValue`.

    Raises:
        ProtocolError: it is malformed.
    """
    reason = _code_mismatch(layout.code)
    if reason:
        return remote_value(payload, layout.stream, reason=reason)
    try:
        return load(layout.stream, layout.buffers)
    except Exception as error:  # noqa: BLE001 - unpickling runs users' code, which may raise anything
        from stoker.protocol.pickle_slices import check  # it imports pickletools: 10 ms, for failures only

        check(bytes(layout.stream))
        return remote_value(payload, layout.stream, error=error)


def open_items(layout: Layout) -> list[Any]:
    """Open a payload that holds a tuple, each item on its own: those that cannot be opened are `RemoteValue`.

    Raises:
        ProtocolError: it is malformed.
    """
    from stoker.protocol.pickle_slices import slice_items

    values: list[Any] = []
    for item in slice_items(bytes(layout.stream)):
        if any(index >= len(layout.buffers) for index in item.buffers):
            raise ProtocolError(f"A payload has {len(layout.buffers)} buffers, and its pickle takes more.")
        buffers = [layout.buffers[index] for index in item.buffers]
        code = layout.code if is_code([item.stream]) else None
        payload = memoryview(lay_out([item.stream], buffers, code).to_bytes())
        values.append(open_whole(payload, Layout(memoryview(item.stream), buffers, code)))
    return values


def _code_mismatch(code: tuple[int, int] | None) -> str:
    if code is None or code == sys.version_info[:2]:
        return ""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return f"it holds code of Python {code[0]}.{code[1]}, which Python {here} cannot run"


def remote_value(payload: Buffer, stream: Buffer, *, reason: str = "", error: Exception | None = None) -> RemoteValue:
    """Return what stands for a payload that cannot be opened here."""
    missing = ""
    if isinstance(error, ModuleNotFoundError):
        reason, missing = str(error), error.name or ""
    elif error is not None:
        reason = f"{type(error).__name__}: {error}"
    from stoker.protocol.pickle_slices import container_name

    whole = bytes(stream)
    return RemoteValue(
        payload,
        opener=open_payload,
        remote_type=_type_name(whole),
        reason=reason,
        missing=missing,
        container=container_name(whole),
    )


def _type_name(stream: bytes) -> str:
    from stoker.protocol.pickle_slices import global_names

    for module, name in global_names(stream):
        if module.startswith("stoker.protocol."):
            if name in _REBUILT:
                return _REBUILT[name]
        elif module not in _WRAPPERS:
            return f"{module}.{name}"
    return "value"


def as_view(buffer: Any) -> memoryview:
    """Return any buffer as a view of its bytes.

    Raises:
        ProtocolError: it is empty.
    """
    view = memoryview(buffer)
    if not view.nbytes:
        raise ProtocolError("A payload is empty.")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def load_plain(buffer: Any) -> Any:
    """Open a pickle that names no globals, which therefore can only fail by being malformed."""
    try:
        return pickle.loads(buffer)
    except Exception as error:
        raise ProtocolError(f"These bytes are no payload: {error}.") from error


def open_payload(buffer: Any) -> object:
    """Open the payload inside a `RemoteValue`: part of the wire format, called where one arrives."""
    payload = as_view(buffer)
    if payload[0] == PLAIN:
        return load_plain(payload)
    return open_whole(payload, open_layout(payload, copy=False))


def decode(buffer: Any, *, copy: bool = False) -> Any:
    """Decode one object from any buffer, without a copy: its arrays are views of ``buffer`` where that is writable.

    A read-only buffer has its arrays copied once, since they must be writable where they were; ``copy`` forces that.
    What cannot be opened here comes as a `RemoteValue`.

    Raises:
        ProtocolError: the bytes are malformed.
    """
    payload = as_view(buffer)
    if payload[0] == PLAIN:
        return load_plain(payload)
    return open_whole(payload, open_layout(payload, copy=copy))


def decode_call(buffer: Any, *, copy: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Decode a call's arguments; each that cannot be opened here is a `RemoteValue`, the others are themselves.

    Raises:
        ProtocolError: the bytes are malformed.
    """
    payload = as_view(buffer)
    flat = load_plain(payload) if payload[0] == PLAIN else _decode_flat(payload, copy=copy)
    if type(flat) is not tuple or not flat or type(flat[0]) is not tuple or len(flat[0]) >= len(flat):
        raise ProtocolError(f"These bytes are no call's arguments but a {type(flat).__name__}.")
    names = flat[0]
    if not names:
        return flat[1:], {}
    return flat[1 : -len(names)], dict(zip(names, flat[-len(names) :], strict=True))


def _decode_flat(payload: memoryview, *, copy: bool) -> Any:
    layout = open_layout(payload, copy=copy)
    if layout.code is None or layout.code == sys.version_info[:2]:
        try:
            return load(layout.stream, layout.buffers)
        except Exception:  # noqa: BLE001 - unpickling runs users' code, which may raise anything
            return tuple(open_items(layout))
    return tuple(open_items(layout))

"""Exceptions as bytes, and back: the original type where it is installed, else a `RemoteError` that says all it can.

An exception's own pickle calls its class with ``args``, which fails for the many whose ``__init__`` takes something
else. Here it is rebuilt without its ``__init__``: the same type, text, args and attributes, and nothing of the user's
runs. Its causes and contexts travel as text only, in the traceback.
"""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from typing import Any

from stoker.errors import CallError, ProtocolError, RemoteError, SerializationError, StokerError, from_wire
from stoker.protocol.encoded import Encoded
from stoker.protocol.loading import decode
from stoker.protocol.saving import encode
from stoker.types import ErrorInfo

_WRONG_ARGUMENTS = re.compile(r"\S+\(\) (takes|missing|got) ")
_PRINTS_NOTES = sys.version_info >= (3, 11)
TEXT_MAX_CHARS = 100_000  # of a message or a traceback: it travels in a header and is printed


class RemoteTraceback(Exception):
    """The traceback of an exception, as text from the worker where it was raised: its ``__cause__`` here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def encode_exception(error: BaseException, *, strip: str = "") -> tuple[Encoded, ErrorInfo]:
    """Encode an exception, and what a person needs to know of it.

    ``strip`` is the directory of Stoker's code, which called the user's: its frames are left out. The payload is empty
    where the exception cannot be pickled.
    """
    text = format_exception(error, strip=strip)
    if isinstance(error, RemoteError):
        return Encoded([bytes(error.payload)]), _info_of_remote(error, text)
    info = ErrorInfo(
        type_name=_qualified(type(error)),
        message=_message(error),
        traceback=text,
        mro=[_qualified(kind) for kind in type(error).__mro__ if kind is not object],
        fields=error.fields if isinstance(error, StokerError) else {},
    )
    return _encode_or_nothing(error), info


def _info_of_remote(error: RemoteError, text: str) -> ErrorInfo:
    """Describe an error whose type is not installed here as the worker did that raised it."""
    return ErrorInfo(
        type_name=error.type_name or _qualified(type(error)),
        message=_message(error).removeprefix(f"{error.type_name.removeprefix('builtins.')}: "),
        traceback=_clip(f"{error.traceback}\n{text}" if error.traceback not in text else text),
        mro=list(getattr(error, "mro", [])),
    )


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return _clip(str(error))
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"<the text of this {type(error).__name__} could not be made>"


def _clip(text: str) -> str:
    if len(text) <= TEXT_MAX_CHARS:
        return text
    half = TEXT_MAX_CHARS // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def format_exception(error: BaseException, *, strip: str = "") -> str:
    """Return an exception with its traceback, as Python prints it; ``strip`` as of `encode_exception`."""
    try:
        formatted = traceback.TracebackException.from_exception(error)
        _strip(formatted, strip, set())
        notes = [] if _PRINTS_NOTES else [f"{note}\n" for note in getattr(error, "__notes__", ())]
        return _clip("".join([*formatted.format(), *notes]))
    except Exception as failure:  # noqa: BLE001 - formatting runs users' __str__, __notes__ and __cause__
        return f"{_qualified(type(error))}: {_message(error)}\n(its traceback could not be made: {failure!r})\n"


def _strip(formatted: traceback.TracebackException | None, directory: str, seen: set[int]) -> None:
    """Drop the frames of ``directory`` from this traceback and from those it is chained to.

    Where there are no others, the last one stays: it is all there is, but for a function that could not be called with
    its arguments, whose caller's line says nothing that the message does not.
    """
    if formatted is None or not directory or id(formatted) in seen:
        return
    seen.add(id(formatted))
    stack = formatted.stack
    kept = [frame for frame in stack if not frame.filename.startswith(directory)]
    if not kept and not _WRONG_ARGUMENTS.match(str(formatted)):
        kept = stack[-1:]
    stack[:] = kept
    for chained in (formatted.__cause__, formatted.__context__, *(getattr(formatted, "exceptions", None) or ())):
        _strip(chained, directory, seen)


def _encode_or_nothing(error: BaseException) -> Encoded:
    try:
        parts = _parts(error)
        if parts is None:
            return encode(error)
        kind, args, state = parts
        args = tuple(_portable(value) for value in args)
        try:
            return encode(_Rebuilt(kind, args, state))
        except SerializationError:
            return encode(_Rebuilt(kind, args, {k: v for k, v in state.items() if _is_encodable(v)}))
    except (SerializationError, RecursionError):
        return Encoded([b""])


def _portable(value: Any) -> Any:
    """Return what an exception group holds in the form in which the group itself travels."""
    if isinstance(value, (list, tuple)) and any(isinstance(item, BaseException) for item in value):
        return [_portable(item) for item in value]
    parts = _parts(value) if isinstance(value, BaseException) else None
    if parts is None:
        return value
    kind, args, state = parts
    return _Rebuilt(kind, tuple(_portable(item) for item in args), state)


def _is_encodable(value: object) -> bool:
    try:
        encode(value)
    except SerializationError:
        return False
    return True


def _parts(error: BaseException) -> tuple[type, tuple[Any, ...], dict[str, Any]] | None:
    """Return type, args and attributes, or None for an exception that has its own way of being pickled."""
    kind = type(error)
    for name in ("__reduce__", "__reduce_ex__", "__setstate__", "__getstate__"):
        if hasattr(_native(kind), name) and getattr(kind, name) is not getattr(_native(kind), name):
            return None
    if "__getstate__" in vars(kind) or "__getnewargs__" in dir(kind) or "__getnewargs_ex__" in dir(kind):
        return None
    reduced = error.__reduce__()
    if not isinstance(reduced, tuple) or reduced[0] is not kind:
        return None
    state = reduced[2] if len(reduced) > 2 and isinstance(reduced[2], dict) else {}
    return kind, tuple(reduced[1]), dict(state)


def _native(kind: type) -> type[BaseException]:
    """Return the first base that is not made in Python: the one that holds the exception's own C fields."""
    for base in kind.__mro__:
        if issubclass(base, BaseException) and not base.__flags__ & (1 << 9):  # Py_TPFLAGS_HEAPTYPE
            return base
    return BaseException


class _Rebuilt:
    """An exception on its way: it is rebuilt as it is unpickled."""

    def __init__(self, kind: type, args: tuple[Any, ...], state: dict[str, Any]) -> None:
        self._parts = (kind, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_exception, self._parts


def rebuild_exception(kind: Any, args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an exception from its type, args and attributes, without running its ``__init__``.

    Part of the wire format.
    """
    native = _native(kind)
    error: BaseException = native.__new__(kind, *args)
    native.__init__(error, *args)
    if state:
        error.__setstate__(state)
    return error


def decode_exception(payload: Any, info: ErrorInfo, *, call_id: str, function: str) -> BaseException:
    """Return the exception that ended a call; its ``__cause__`` is the remote traceback.

    Never raises: where the type is not installed here, or cannot be made, it is a `RemoteError`.
    """
    if "." not in info.type_name:
        return _stoker_error(info, call_id=call_id, function=function)
    error = _open(payload)
    if error is None:
        error = RemoteError(
            info.said,
            call_id=call_id,
            function=function,
            type_name=info.type_name,
            traceback=info.traceback,
            payload=bytes(payload),
        )
        vars(error)["mro"] = info.mro  # for a retry policy further up, if it is raised again
    with contextlib.suppress(Exception):  # a user's type may refuse attributes
        error.__cause__ = RemoteTraceback(info.traceback) if info.traceback else None
        if "rank" in info.fields:
            add_note(error, f"It was raised by rank {info.fields['rank']} of {info.fields['ranks']}.")
    return error


def add_note(error: BaseException, text: str) -> None:
    """Say something below an exception's message; a program of Python 3.10 shows no notes, and keeps them."""
    notes = getattr(error, "__notes__", None)
    error.__notes__ = [*(notes if isinstance(notes, list) else []), text]  # type: ignore[attr-defined, unused-ignore]


def _stoker_error(info: ErrorInfo, *, call_id: str, function: str) -> StokerError:
    error = from_wire(info.type_name, info.message, info.fields)
    if isinstance(error, CallError):
        error.call_id = error.call_id or call_id
        error.function = error.function or function
    if info.traceback:
        error.__cause__ = RemoteTraceback(info.traceback)
    return error


def _open(payload: Any) -> BaseException | None:
    if not len(payload):
        return None
    try:
        error = decode(payload, copy=True)
    except ProtocolError:
        return None
    return error if isinstance(error, BaseException) else None

"""JSON documents into the dataclasses of `messages` and back, by the standard library alone.

The server reads the same documents with msgspec; a test holds the two to each other. Types are checked here too: a peer
that sends a text for a number gets a `ProtocolError`, not a surprise later on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from math import isfinite
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from stoker.errors import ProtocolError
from stoker.protocol.messages import KIND_OF, KINDS, Ack, Items, Lease, Results

T = TypeVar("T")
Check = Callable[[Any], Any]


def _as_dict(value: Any) -> Any:
    if is_dataclass(value):
        return vars(value)
    raise TypeError(f"{type(value).__name__} is not part of a message")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


_ENCODER = json.JSONEncoder(separators=(",", ":"), default=_as_dict, check_circular=False, allow_nan=False)
_scan: Callable[[str], Any] = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _make_encode() -> Callable[[dict[str, Any]], str]:
    """Return the standard library's encoder, made once: `JSONEncoder.encode` makes one for each document."""
    if c_make_encoder is None:
        return _ENCODER.encode
    chunks = c_make_encoder(None, _as_dict, encode_basestring_ascii, None, ":", ",", False, False, False)
    return lambda document: "".join(chunks(document, 0))


_encode = _make_encode()
_SURROGATE = "\\ud"  # how half a pair is escaped, and whole pairs too: what has it is looked at more closely


def encode_header(message: Any) -> tuple[int, bytes]:
    """Return (kind, JSON header) of a message.

    What JSON has no notation for, and the other side would close the connection over, is replaced: half a surrogate
    pair (in the name of a file that is no UTF-8) by U+FFFD, a number that is not finite by null.
    """
    document = vars(message)
    try:
        text = _encode(document)
    except ValueError:
        text = _encode(_sayable(document))
    if _SURROGATE in text:
        text = _encode(_sayable(document))
    return KIND_OF[type(message)], text.encode()


def _sayable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {_sayable(key): _sayable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sayable(item) for item in value]
    return _sayable(_as_dict(value)) if is_dataclass(value) else value


def decode_header(kind: int, header: bytes) -> Any:
    """Return the message of a frame.

    Raises:
        ProtocolError: an unknown kind, no JSON, or not this message's fields.
    """
    cls = KINDS.get(kind)
    if cls is None:
        raise ProtocolError(f"There is no message of kind {kind}.")
    try:
        document = _scan(header.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"The header of a {cls.__name__} is no JSON: {error}") from None
    hot = _HOT.get(kind)
    if (
        hot is not None
        and isinstance(document, dict)
        and document.keys() == hot
        and not document.get("errors")
        and not document.get("gang")
    ):
        # What comes with every call, whole, from a server that checks what it sends on: taken over as it is.
        message = object.__new__(cls)
        vars(message).update(document)
        return message
    return structured(cls, document)


_HOT = {KIND_OF[cls]: {f.name for f in fields(cls)} for cls in (Lease, Results, Items, Ack)}
"""The messages that a server sends with each call, and their fields."""


def structured(cls: type[T], document: Any) -> T:
    """Return an instance of a dataclass from its JSON document.

    Raises:
        ProtocolError: a field is missing, unknown, or of another type.
    """
    result: T = _checker(cls)(document)
    return result


_CHECKERS: dict[Any, Check] = {}


def _checker(kind: Any) -> Check:
    found = _CHECKERS.get(kind)
    if found is None:
        found = _CHECKERS[kind] = _make_checker(kind)
    return found


def _make_checker(kind: Any) -> Check:
    origin = get_origin(kind)
    if kind is Any:
        return lambda value: value
    if is_dataclass(kind):
        return _dataclass_checker(kind)
    if origin is list:
        return _list_checker(get_args(kind)[0])
    if origin is dict:
        return _dict_checker(get_args(kind)[1])
    if origin is Union or type(kind).__name__ == "UnionType":
        return _union_checker(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_checker(kind)
    return _plain_checker(kind)


def _dataclass_checker(cls: Any) -> Check:
    hints = get_type_hints(cls)
    checks = {f.name: _checker(hints[f.name]) for f in fields(cls)}
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ProtocolError(f"A {cls.__name__} is not an object.")
        try:
            values = {name: checks[name](item) for name, item in value.items()}
        except KeyError as error:
            raise ProtocolError(f"A {cls.__name__} has no field {error}.") from None
        for name in required:
            if name not in values:
                raise ProtocolError(f"A {cls.__name__} came without its field {name!r}.")
        return cls(**values)

    return check


def _list_checker(item: Any) -> Check:
    if item in (str, int):
        # Columns of a hot message: one pass at C speed instead of a Python call an item.
        def check_column(value: Any) -> Any:
            if not isinstance(value, list) or not set(map(type, value)) <= {item}:
                raise ProtocolError(f"A column of {item.__name__} holds something else.")
            return value

        return check_column
    check_item = _checker(item)

    def check(value: Any) -> Any:
        if not isinstance(value, list):
            raise ProtocolError("A list was expected.")
        return [check_item(one) for one in value]

    return check


def _dict_checker(item: Any) -> Check:
    check_item = _checker(item)

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ProtocolError("An object was expected.")
        return {key: check_item(one) for key, one in value.items()} if value else value

    return check


def _union_checker(kinds: tuple[Any, ...]) -> Check:
    checks = [_checker(kind) for kind in kinds if kind is not type(None)]
    optional = len(checks) < len(kinds)

    def check(value: Any) -> Any:
        if value is None and optional:
            return None
        for one in checks:
            try:
                return one(value)
            except ProtocolError:
                continue
        raise ProtocolError(f"{value!r:.60} is none of {kinds}.")

    return check


def _enum_checker(kind: type[Enum]) -> Check:
    def check(value: Any) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise ProtocolError(f"{value!r:.60} is no {kind.__name__}.") from None

    return check


def _plain_checker(kind: Any) -> Check:
    allowed: tuple[type, ...] = (int, float) if kind is float else (kind,)

    def check(value: Any) -> Any:
        if type(value) not in allowed:
            raise ProtocolError(f"{value!r:.60} is no {kind.__name__}.")
        return value

    return check

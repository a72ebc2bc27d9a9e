"""Values to JSON: what an endpoint returned, whatever types have a form there. Pure."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import sys
import types
from collections import deque
from collections.abc import Callable, Mapping, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

DEPTH_MAX = 100  # nested containers in what is returned: more is a value that holds itself


def to_json(value: Any) -> bytes:
    """Return a value as JSON. NaN and infinities, which JSON has not, are null.

    Raises:
        TypeError: some of it has no form in JSON; the message names its type, and where it is.
    """
    try:
        text = _encode(value)
    except (ValueError, TypeError, RecursionError):
        try:
            text = json.dumps(_finite(value, 0), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except TypeError:
            if (found := _formless_in(value, "$", 0)) is None:
                raise
            raise _formless(*found) from None
    return text.encode("utf-8", "replace")


def _formless(value: Any, path: str = "") -> TypeError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return TypeError(
        f"an endpoint's answer is JSON, and {f'what it has at {path}, of the type ' if path else ''}{kind} has no form "
        "there: return plain values, dataclasses, models, arrays, or a stoker.Response"
    )


def _formless_in(value: Any, path: str, depth: int) -> tuple[Any, str] | None:
    """Return the first part of a value that has no form in JSON, and where it is."""
    if depth > DEPTH_MAX or value is None or isinstance(value, (str, bool, int, float)):
        return None
    if isinstance(value, Mapping):
        parts = [(f"{path}.{name}", one) for name, one in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(f"{path}[{index}]", one) for index, one in enumerate(value)]
    else:
        try:
            parts = [(path, plain(value))]
        except TypeError:
            return value, path
    found = (_formless_in(one, place, depth + 1) for place, one in parts)
    return next((one for one in found if one is not None), None)


def plain(value: Any) -> Any:
    """Return a value in the types that JSON has, one level deep."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    for names, make in _PLAIN:
        if any(hasattr(value, name) for name in names):
            return make(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, (Set, types.GeneratorType, deque)):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    kind = type(value).__module__
    if isinstance(value, (Decimal, Fraction, UUID, PurePath)) or kind == "ipaddress":
        return str(value)
    if kind.partition(".")[0] in {"pydantic", "pydantic_core"}:
        return _of_pydantic(value)
    raise _formless(value)


def _of_pydantic(value: Any) -> Any:
    """Return a model, or a value of a type that pydantic has itself: of a secret, stars."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    core = sys.modules.get("pydantic_core")
    if core is None:
        raise _formless(value)
    return core.to_jsonable_python(value)


def _encoder() -> Callable[[Any], str]:
    """Return what makes JSON of a value: the C function that `json.JSONEncoder` would make anew for each, which takes
    longer than most answers do. It looks for no cycles; what holds itself is nested too deeply."""
    whole = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=plain)
    make, text = json.encoder.c_make_encoder, json.encoder.encode_basestring  # type: ignore[attr-defined]
    if make is None:
        return whole.encode
    pieces = make(None, plain, text, None, ":", ",", False, False, False)
    return lambda value: "".join(pieces(value, 0))


_encode = _encoder()
_PLAIN: tuple[tuple[tuple[str, ...], Callable[[Any], Any]], ...] = (
    (("__pydantic_serializer__",), _of_pydantic),
    (("__struct_fields__",), lambda value: {name: getattr(value, name) for name in value.__struct_fields__}),
    (("tolist",), lambda value: value.tolist()),  # NumPy's and PyTorch's arrays and scalars
    (("to_dict",), lambda value: value.to_dict()),
)


def _finite(value: Any, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise TypeError("an endpoint's answer holds itself, or is nested more than 100 deep")
    if value is None or isinstance(value, (str, bool, int)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(name): _finite(one, depth + 1) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one, depth + 1) for one in value]
    return _finite(plain(value), depth + 1)


def _key(name: Any) -> str:
    if isinstance(name, str):
        return name
    found = _finite(name, 0)
    return found if isinstance(found, str) else json.dumps(found)

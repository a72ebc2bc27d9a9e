"""JSON to plain values: numbers, texts, and what is written as one of them; and what is said of values that are not.

Types of the standard library, and of NumPy and pydantic where the function's own environment has them. Pure.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import numbers
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

from stoker.protocol.web_calls import VALUE_FOLLOWS

TOO_LARGE = "the number is too large"
_INFINITE = (math.inf, -math.inf)
SHOWN_CHARACTERS = 40  # of a value that is not what it should be


class Invalid(Exception):
    """What came is not what the annotation says. ``path`` is where, as in ``$.points[2].x``; ``more`` things are wrong
    besides."""

    def __init__(self, path: str, message: str, *, more: int = 0) -> None:
        super().__init__(f"{path}: {message}{f' (and {more} more)' if more else ''}")
        self.path = path
        self.message = message
        self.more = more

    @classmethod
    def unlike(cls, path: str, what: str, value: Any) -> Invalid:
        """Return that something else came than what was expected; it ends in what came, as `VALUE_FOLLOWS` says."""
        return cls(path, f"expected {what}{VALUE_FOLLOWS}{_kind(value)}")

    @classmethod
    def all_of(cls, errors: Sequence[Invalid]) -> Invalid:
        """Return the first of these, which says how many there are besides."""
        first = errors[0]
        return cls(first.path, first.message, more=first.more + sum(1 + one.more for one in errors[1:]))


Convert = Callable[[Any, str], Any]


def _kind(value: Any) -> str:
    """Say what came: a plain value itself, of a long one the beginning."""
    if value is None or value is True or value is False:
        return json.dumps(value)
    if isinstance(value, str):
        return f'the text "{_short(value)}"' if value else "an empty text"
    if isinstance(value, (int, float)):
        return _short(_digits(value))
    names: dict[type, str] = {list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _short(text: str) -> str:
    shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    return "".join(one if one.isprintable() else "�" for one in shown)


def _digits(value: float) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no number out that has thousands of digits
        return "a number"


def made_of(kind: Any, part: Convert) -> Convert:
    """Return how a plain value becomes one of a class of the user's that is derived from its own."""

    def convert(value: Any, path: str) -> Any:
        plain_value = part(value, path)
        try:
            return kind(plain_value)
        except (ValueError, TypeError) as error:  # of a check that the class makes
            raise Invalid(path, str(error)) from error

    return convert


def to_bool(value: Any, path: str) -> bool:
    if isinstance(value, bool):
        return value
    raise Invalid.unlike(path, "true or false", value)


def to_int(value: Any, path: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise Invalid.unlike(path, "a whole number", value)


def to_float(value: Any, path: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            raise Invalid(path, TOO_LARGE) from None
        if found in _INFINITE:  # 1e999, which Python reads as that, is a number of JSON
            raise Invalid(path, TOO_LARGE)
        return found
    raise Invalid.unlike(path, "a number", value)


def to_str(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    raise Invalid.unlike(path, "a text", value)


def to_bytes(value: Any, path: str) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(to_str(value, path), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(path, "expected bytes in base64") from None


def _parsed(parse: Callable[[str], Any], what: str) -> Convert:
    def convert(value: Any, path: str) -> Any:
        text = to_str(value, path)
        try:
            return parse(text)
        except (ValueError, InvalidOperation):
            raise Invalid(path, f"expected {what}") from None

    return convert


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)


def _decimal(value: Any, path: str) -> Decimal:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Decimal(str(to_float(value, path) if isinstance(value, float) else value))
    found: Decimal = _parsed(Decimal, "a decimal number")(value, path)
    if not found.is_finite():
        raise Invalid(path, "expected a decimal number that is finite")
    return found


def _timedelta(value: Any, path: str) -> timedelta:
    try:
        return timedelta(seconds=to_float(value, path))
    except OverflowError:
        raise Invalid(path, "so many seconds are no duration") from None


def _complex(value: Any, path: str) -> complex:
    return complex(to_float(value, path))


EXACT: dict[Convert, frozenset[type]] = {
    to_bool: frozenset({bool}),
    to_int: frozenset({int}),
    to_float: frozenset({float}),
    to_str: frozenset({str}),
}

SCALARS: dict[type, Convert] = {
    bool: to_bool,
    int: to_int,
    float: to_float,
    complex: _complex,
    str: to_str,
    bytes: to_bytes,
    bytearray: lambda value, path: bytearray(to_bytes(value, path)),
    memoryview: lambda value, path: memoryview(to_bytes(value, path)),
    datetime: _parsed(_moment, "a time such as 2026-01-31T12:00:00Z"),
    date: _parsed(date.fromisoformat, "a date such as 2026-01-31"),
    time: _parsed(time.fromisoformat, "a time of day such as 12:00:00"),
    timedelta: _timedelta,
    Decimal: _decimal,
    UUID: _parsed(UUID, "a UUID"),
}


def scalar_of(kind: type) -> Convert | None:
    """Return the converter of a class that is of a plain value, as those of files' paths, of addresses, of NumPy."""
    if issubclass(kind, PurePath):
        return _parsed(kind, "a path")
    if kind is os.PathLike:
        return to_str
    if kind is Fraction:
        return _fraction
    if kind.__module__ == "ipaddress":
        return _parsed(kind, f"an {kind.__name__}")
    if kind.__module__ == "numbers":
        return to_int if issubclass(kind, numbers.Rational) else _number
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, (numpy.number, numpy.bool_)):
        return _of_numpy(kind, numpy)
    return None


def _number(value: Any, path: str) -> Any:
    return value if isinstance(value, int) and not isinstance(value, bool) else to_float(value, path)


_FRACTION = re.compile(r"\s*[+-]?([0-9]+(/[0-9]+)?|[0-9]*\.[0-9]+)\s*")  # of an exponent Python makes all the digits


def _fraction(value: Any, path: str) -> Fraction:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Fraction(value if isinstance(value, int) else to_float(value, path))
    text = to_str(value, path)
    try:
        if _FRACTION.fullmatch(text):
            return Fraction(text)
    except (ValueError, ZeroDivisionError):
        pass
    raise Invalid(path, "expected a fraction such as 3/4")


_NO_WIDTH = frozenset(
    {"number", "integer", "signedinteger", "unsignedinteger", "inexact", "floating", "complexfloating"}
)  # NumPy's classes that only others are derived from


def _of_numpy(kind: Any, numpy: Any) -> Convert:
    if issubclass(kind, numpy.bool_):
        return lambda value, path: kind(to_bool(value, path))
    is_whole = issubclass(kind, numpy.integer)
    part = to_int if is_whole else to_float
    if kind.__module__ == "numpy" and kind.__name__ in _NO_WIDTH:
        return _number if kind is numpy.number else part
    limits = numpy.iinfo(kind) if is_whole and kind is not numpy.timedelta64 else None

    def convert(value: Any, path: str) -> Any:
        plain_value = part(value, path)
        if limits is not None and not limits.min <= plain_value <= limits.max:
            raise Invalid.unlike(path, f"a whole number from {limits.min} to {limits.max}", value)
        with numpy.errstate(over="ignore"):
            found = kind(plain_value)
        if limits is None and not numpy.isfinite(found):
            raise Invalid(path, TOO_LARGE)
        return found

    return convert


def path_of(places: Sequence[Any]) -> str:
    """Return the places of a value inside another, the outermost first, as they stand in an error's path."""
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in places)

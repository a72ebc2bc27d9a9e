"""Sizes and durations as people write them, read into bytes and seconds."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from stoker.errors import InvalidOption

_BYTES = {
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]+)\s*")
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)\s*")


def parse_size(value: str | int, *, option: str = "memory") -> int:
    """Return bytes from ``"512MiB"``, ``"1.5GB"`` or a number of bytes.

    Raises:
        InvalidOption: not a positive size; the message shows the forms that are.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        unit = _BYTES.get(found[2].lower())
        if unit and float(found[1]) > 0:
            return int(float(found[1]) * unit)
    raise InvalidOption(
        f'{stated(option, value)} is not a size. Write a number and a unit, as in "512MiB", "2GiB" or "1.5GB", or a '
        "whole number of bytes."
    )


def parse_duration(value: str | float | timedelta, *, option: str, zero: bool = False) -> float:
    """Return seconds from a number, ``"5m"``, ``"1.5h"``, ``"200ms"``, ``"1h30m"`` or a `timedelta`.

    Raises:
        InvalidOption: not a duration, or not positive (zero is allowed with ``zero``).
    """
    seconds = math.nan
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        parts = list(_DURATION.finditer(value))
        if parts and "".join(m[0] for m in parts) == value and all(m[2] in _SECONDS for m in parts):
            seconds = sum(float(m[1]) * _SECONDS[m[2]] for m in parts)
    if math.isfinite(seconds) and (seconds > 0 or (zero and seconds == 0)):
        return seconds
    raise InvalidOption(
        f'{stated(option, value)} is not a duration. Write a number and a unit, as in "30s", "10m", "1h30m" or '
        '"7d", or a number of seconds.'
    )


def stated(option: str, value: object) -> str:
    """Return an option and its value as their user wrote them: ``timeout='x'``, or ``--age x`` on a command line."""
    return f"{option} {value}" if option.startswith("-") else f"{option}={value!r}"


def format_size(count: float) -> str:
    """Return bytes as people read them: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Return seconds as people read them: ``850 ms``, ``12.3 s``, ``4 min 5 s``, ``2 h 3 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"

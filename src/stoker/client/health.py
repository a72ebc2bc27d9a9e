"""`healthy`: a method of a class that says whether its worker is still good for anything."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, overload

from stoker.client.lifecycle import HEALTH_MARK, HookDecorator, check_hook
from stoker.errors import InvalidOption, InvalidRequest
from stoker.quantities import parse_duration
from stoker.types import HealthSpec

F = TypeVar("F", bound="Callable[..., Any]")

EVERY_SECONDS_MIN = 0.1  # more often, and the checks are what the worker is busy with


@overload
def healthy(function: F, /) -> F: ...
@overload
def healthy(
    *, every: float | str | timedelta = ..., timeout: float | str | timedelta = ..., failures: int = ...
) -> HookDecorator: ...
def healthy(
    function: Any = None,
    /,
    *,
    every: float | str | timedelta = "10s",
    timeout: float | str | timedelta = "5s",
    failures: int = 3,
) -> Any:
    """Have a method of a class run every so often in each of its workers, to tell whether it is still good.

    A check fails that raises, returns ``False``, or has not returned after ``timeout``. A worker whose checks have
    failed ``failures`` times in a row gets no more calls, is ended and replaced, and what it ran is run again. One
    takes no calls before its first check has passed.

    A plain method runs in a thread of its own, beside the call that the worker is busy with; an async one on the event
    loop that runs the calls, so that a blocked loop fails it.

    Raises:
        InvalidOption: a duration or the number is malformed.
        InvalidRequest: it is no method, takes arguments, or yields.
    """
    spec = HealthSpec(
        parse_duration(every, option="healthy(every)"),
        parse_duration(timeout, option="healthy(timeout)"),
        _failures(failures),
    )
    if spec.every < EVERY_SECONDS_MIN:
        raise InvalidOption(f"healthy(every={every!r}): at most one check in {EVERY_SECONDS_MIN:g} s.")

    def mark(given: Any) -> Any:
        check_hook(given, "healthy")
        setattr(given, HEALTH_MARK, spec)
        return given

    return mark if function is None else mark(function)


def _failures(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise InvalidOption(f"healthy(failures={value!r}) is not a whole number of at least 1.")


def check_of(kind: type, *, label: str = "") -> tuple[str, HealthSpec] | None:
    """Return the name of a class's check, and how it is run; None where it has none.

    Raises:
        InvalidRequest: it has several.
    """
    found: dict[str, HealthSpec] = {}
    for base in reversed(kind.__mro__):
        for name, value in vars(base).items():
            spec = getattr(value, HEALTH_MARK, None)
            if isinstance(spec, HealthSpec) and callable(getattr(kind, name, None)):
                found[name] = spec
    if len(found) > 1:
        raise InvalidRequest(
            f"{label or kind.__qualname__} has {len(found)} methods under @stoker.healthy: {', '.join(found)}. Make "
            "one of them call the others."
        )
    return next(iter(found.items()), None)


def is_async(kind: type) -> bool:
    """Tell whether a class's check runs on the event loop of its workers."""
    found = check_of(kind)
    return found is not None and inspect.iscoroutinefunction(getattr(kind, found[0]))

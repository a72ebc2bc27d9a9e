"""Finds which object, deep inside another, is the one that cannot be pickled."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from stoker.errors import SerializationError

Attempt: TypeAlias = Callable[[object], "Exception | None"]  # pickles an object; returns what went wrong
Children: TypeAlias = "Iterator[tuple[str, object]]"

DEPTH_MAX = 50  # levels; what is nested deeper is reported at this one
ATTEMPTS_MAX = 10_000  # each pickles a part of the object again; a list of a million models is not all tried

_ATOMS = frozenset({int, float, bool, str, bytes, type(None)})


def explain(obj: object, path: str, *, error: Exception, attempt: Attempt) -> SerializationError:
    """Return the error that names the innermost object that cannot be pickled, by its path from ``path``."""
    if _is_too_deep(error):  # each level of it is, down to where it is not: no one of them is the culprit
        return _error(path, "nested too deeply to be pickled", error)
    seen = {id(obj)}
    left = ATTEMPTS_MAX
    for _ in range(DEPTH_MAX):
        found = None
        for suffix, child in _children(obj):
            if type(child) in _ATOMS or id(child) in seen:
                continue
            left -= 1
            failure = attempt(child) if left > 0 else None
            if failure is not None:
                found = (suffix, child, failure)
                break
        if found is None:
            break
        path, obj, error = path + found[0], found[1], found[2]
        seen.add(id(obj))
    return _error(path, _reason(error), error)


def _error(path: str, reason: str, error: Exception) -> SerializationError:
    return SerializationError(f"{path}: {reason}. {_advice(error)}", path=path)


def _is_too_deep(error: Exception) -> bool:
    return isinstance(error, RecursionError) or "deep recursion" in str(error)  # the latter is cloudpickle's


def _reason(error: Exception) -> str:
    text = str(error).rstrip(".") or "no reason given"
    return text if type(error) in (TypeError, ValueError) or "pickle" in text else f"{type(error).__name__}: {text}"


def _advice(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "cloudpickle":
        return "It can only travel by value, which needs cloudpickle: install it here."
    if _is_too_deep(error):
        return "Pass it as a flat list, or as bytes of your own."
    return "Make it where it is used, leave it out in __getstate__, or pass what it is made from."


def _children(obj: object) -> Children:
    if isinstance(obj, dict):
        for key, value in list(obj.items()):
            yield f"[{_short(key)}]", value
            yield f".keys()[{_short(key)}]", key
    elif isinstance(obj, (list, tuple)):
        for i, value in enumerate(obj):
            yield f"[{i}]", value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield f".{{{_short(value)}}}", value
    elif isinstance(obj, types.FunctionType):
        yield from _children_of_function(obj)
    elif isinstance(obj, types.MethodType):
        yield ".__self__", obj.__self__
    elif isinstance(obj, type):
        yield from ((f".{name}", value) for name, value in list(vars(obj).items()) if not name.startswith("__"))
    if type(obj) not in (dict, list, tuple, set, frozenset, types.FunctionType, types.MethodType) and not isinstance(
        obj, type
    ):
        yield from _children_of_instance(obj)


def _short(key: object) -> str:
    try:
        text = repr(key)
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything; the path must be told all the same
        text = f"<{type(key).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def _children_of_function(function: types.FunctionType) -> Children:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f".<closure>.{name}", cell.cell_contents
        except ValueError:  # a variable that is not set yet
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f".<global>.{name}", function.__globals__[name]
    for i, value in enumerate(function.__defaults__ or ()):
        yield f".__defaults__[{i}]", value


def _children_of_instance(obj: object) -> Children:
    try:
        reduced: Any = obj.__reduce_ex__(5)
    except Exception:  # noqa: BLE001 - a user's __getstate__ may raise anything; then its attributes are looked at
        yield from _named(getattr(obj, "__dict__", None))
        return
    if not isinstance(reduced, tuple):
        return
    parts = (*reduced, None, None, None, None)
    state = parts[2]
    for section in state if isinstance(state, tuple) else (state,):
        if isinstance(section, dict):
            yield from _named(section)
        else:
            yield ".<state>", section
    for i, value in enumerate(parts[1] if isinstance(parts[1], tuple) else ()):
        if not isinstance(value, type):
            yield f".<argument {i}>", value


def _named(attributes: object) -> Children:
    if isinstance(attributes, dict):
        for name, value in list(attributes.items()):
            yield f".{name}", value

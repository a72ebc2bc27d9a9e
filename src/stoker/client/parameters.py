"""The parameters of a class: which there are, and whether values for them can be taken."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Mapping
from typing import Any

from stoker.client.lifecycle import Parameter
from stoker.client.names import nearest
from stoker.errors import InvalidOption, InvalidRequest
from stoker.types import ParameterSpec

_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
_EXAMPLE = 'size: str = stoker.parameter(default="small")'
INTEGER_MAX = 2**63 - 1  # what every reader of JSON takes


def declared_by(kind: type, *, label: str) -> dict[str, ParameterSpec]:
    """Return the parameters of a class, those of its bases included.

    Raises:
        InvalidRequest: one has no type, or another than the four.
        InvalidOption: a default is not of its type.
    """
    found: dict[str, ParameterSpec] = {}
    for base in reversed(kind.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Parameter):
                found[name] = _declared(base, name, value, label=label)
            else:
                found.pop(name, None)  # overridden by something that is none
    return found


def _declared(base: type, name: str, value: Parameter, *, label: str) -> ParameterSpec:
    written = _annotation(base, name)
    if written is inspect.Parameter.empty:
        raise InvalidRequest(f"{label}: the parameter {name!r} has no type. Write it as in `{_EXAMPLE}`.")
    kind = next((text for text, one in _TYPES.items() if written is one), None)
    if kind is None:
        raise InvalidRequest(
            f"{label}: the parameter {name!r} is a {getattr(written, '__name__', written)}. Parameters are str, int, "
            "float or bool: they tell pools apart. Whatever else an instance needs it can make in @stoker.enter()."
        )
    spec = ParameterSpec(kind, value.required)
    return spec if value.required else ParameterSpec(kind, False, _checked(spec, name, value.default, label=label))


def _annotation(base: type, name: str) -> Any:
    written = inspect.get_annotations(base).get(name, inspect.Parameter.empty)
    if not isinstance(written, str):
        return written
    if written.strip() in _TYPES:
        return _TYPES[written.strip()]
    try:
        return typing.get_type_hints(base)[name]
    except (NameError, TypeError, KeyError):
        return written


def values_for(declared: Mapping[str, ParameterSpec], given: Mapping[str, Any], *, label: str) -> dict[str, Any]:
    """Return all values: those that were given, and the defaults.

    Raises:
        InvalidOption: a parameter is unknown, of another type, or missing.
    """
    for name in given:
        if name not in declared:
            known = nearest(name, declared) if declared else "The class has no parameters: see stoker.parameter(…)."
            raise InvalidOption(f"{label} has no parameter {name!r}. {known}")
    missing = [name for name, spec in declared.items() if spec.required and name not in given]
    if missing:
        shown = ", ".join(f"{name}=…" for name in missing)
        raise InvalidOption(f"{label} must be given {', '.join(map(repr, missing))}: write {_short(label)}({shown}).")
    return {
        name: _checked(spec, name, given[name], label=label) if name in given else spec.default
        for name, spec in declared.items()
    }


def defaults_of(declared: Mapping[str, ParameterSpec]) -> dict[str, Any]:
    return {name: spec.default for name, spec in declared.items() if not spec.required}


def _checked(spec: ParameterSpec, name: str, value: Any, *, label: str) -> Any:
    if spec.type == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise InvalidOption(f"{label}: {name}={value!r} is not a finite number.")
        return float(value)
    # Exactly that type: one of its subclasses would arrive as another value than it was here.
    if type(value) is not _TYPES[spec.type]:
        raise InvalidOption(
            f"{label}: {name}={value!r} is a {type(value).__name__}, and this parameter is a {spec.type}."
        )
    if isinstance(value, int) and abs(value) > INTEGER_MAX:
        raise InvalidOption(f"{label}: {name}={value!r} is too big: a parameter has at most 64 bits.")
    if isinstance(value, str) and not value.isprintable() and any("\ud800" <= one <= "\udfff" for one in value):
        raise InvalidOption(f"{label}: {name}={value!r} is no text that could be encoded.")
    return value


def _short(label: str) -> str:
    return label.rpartition(".")[2]

"""JSON to values of the types that an endpoint's annotations name.

Standard library only; models of pydantic and msgspec, NumPy arrays and images of Pillow are known where the function's
own environment has them. Pure.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
import typing
from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Container,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Reversible,
    Sequence,
    Set,
    Sized,
)
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from stoker.web.annotations import Unreadable, Unresolved, fields_of
from stoker.web.scalars import EXACT, SCALARS, Convert, Invalid, made_of, path_of, scalar_of, to_float
from stoker.web.things import File, Request

_MISSING = dataclasses.MISSING
UNIONS = (Union, getattr(types, "UnionType", Union))


Otherwise = Callable[[Unreadable], Convert]
ALIASES_MAX = 50  # names for types within one another, each of which stands for a greater one
_otherwise: ContextVar[Otherwise | None] = ContextVar("_otherwise", default=None)
_aliases: ContextVar[frozenset[Any]] = ContextVar("_aliases", default=frozenset())
_making: ContextVar[tuple[tuple[Any, Convert], ...]] = ContextVar("_making", default=())


def converter(annotation: Any) -> Convert:
    """Return what makes a value of the annotated type of what JSON has; it raises `Invalid`.

    ``Any``, ``object`` and variables of types without a bound are taken as they come, and so is what a name of a type
    says of itself: one level of that is looked at.

    Raises:
        Unreadable: it is a type that nothing in JSON is a value of, and `unreadable_are` says nothing else of those.
        Unresolved: it means nothing.
    """
    with understood(annotation) as found:
        try:
            return _converter(found)
        except Unreadable as error:
            otherwise = _otherwise.get()
            if otherwise is None:
                raise
            return otherwise(error)


def _converter(annotation: Any) -> Convert:
    if annotation is Any or annotation is object or annotation is _MISSING:
        return _as_it_is
    if annotation is None or annotation is type(None):
        return _null
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in UNIONS:
        return _union_of(args)
    if origin is Literal:
        return _literal(args)
    if (alias := _alias_of(annotation)) is not None:
        raise _without_value(alias)
    if origin is not None:
        return _generic(origin, args)
    if isinstance(annotation, type):
        return _of_class(annotation)
    raise Unreadable(annotation)


@contextmanager
def unreadable_are(otherwise: Otherwise | None) -> Iterator[None]:
    """Have converters that are made inside take types which nothing in JSON is a value of so: `refused` or `taken`."""
    token = _otherwise.set(otherwise)
    try:
        yield
    finally:
        _otherwise.reset(token)


def refused(unreadable: Unreadable) -> Convert:
    """A value may be left out, and one that is given is refused."""

    def convert(value: Any, path: str) -> Any:
        raise Invalid(path, f"nothing that a request brings can be read as {unreadable}: leave it out")

    return convert


def taken(unreadable: Unreadable) -> Convert:
    """A value is taken as it comes."""
    return _as_it_is


# Names of types


def meant(annotation: Any) -> Any:
    """Return what a type stands for that is a name for another, or says more of it: a ``NewType``, a ``type X = …``, a
    variable's bound, what is ``Annotated`` or ``Final``. `Any` of what is a text still: the name of what it stands in.
    """
    with understood(annotation) as found:
        return found


@contextmanager
def understood(annotation: Any) -> Iterator[Any]:
    """Yield what an annotation stands for, as `meant`; inside, an alias that it went through stands for `Any`.

    So whatever is worked out of a type's parts, each inside that of the whole, comes to an end.
    """
    within = _aliases.get()
    found = annotation
    while (stands_for := _step(found)) is not found:
        if _alias_of(found) is not None:
            if found in within or len(within) >= ALIASES_MAX:
                stands_for = Any
            within |= {found}
        found = stands_for
    token = _aliases.set(within)
    try:
        yield found
    finally:
        _aliases.reset(token)


def _step(annotation: Any) -> Any:
    origin = get_origin(annotation)
    if origin is typing.Annotated or origin is typing.Final:
        return get_args(annotation)[0]
    if annotation is typing.Final or isinstance(annotation, (str, typing.ForwardRef)):
        return Any
    if isinstance(annotation, typing.TypeVar):
        return Any if annotation.__bound__ is None else annotation.__bound__
    if (known := getattr(annotation, "__supertype__", None)) is not None and callable(annotation):
        return known
    if getattr(annotation, "_name", None) == "LiteralString" and not isinstance(annotation, type):
        return str
    alias = _alias_of(annotation)
    try:
        return annotation if alias is None else _value_of(alias, get_args(annotation))
    except Exception:  # noqa: BLE001 - it is evaluated here, and may be any expression: `converter` tells of it
        return annotation


def _alias_of(annotation: Any) -> Any:
    """Return the ``type X = …`` that an annotation is, or is one of, as ``X[int]``; None where it is neither."""
    return next(
        (one for one in (annotation, get_origin(annotation)) if type(one).__name__ == "TypeAliasType"),
        None,
    )


def _value_of(alias: Any, args: tuple[Any, ...]) -> Any:
    value = alias.__value__
    given = dict(zip(alias.__type_params__, args))  # noqa: B905 - those that have none stay variables
    if isinstance(value, typing.TypeVar):
        return given.get(value, value)
    parameters = getattr(value, "__parameters__", ())
    return value[tuple(given.get(one, one) for one in parameters)] if given and parameters else value


def _without_value(alias: Any) -> Exception:
    try:
        alias.__value__  # noqa: B018 - asking for it is what evaluates it
    except Exception as error:  # noqa: BLE001 - as above
        return Unresolved(alias, alias.__name__, alias.__name__, error)
    return Unreadable(alias)


def _as_it_is(value: Any, path: str) -> Any:
    return value


def _null(value: Any, path: str) -> None:
    if value is not None:
        raise Invalid.unlike(path, "null", value)


def _union_of(args: tuple[Any, ...]) -> Convert:
    """A type that nothing is read as may stand beside one that something is: a tensor beside lists of numbers."""
    parts: list[Convert] = []
    missed: list[Unreadable] = []
    for one in args:
        try:
            parts.append(converter(one))
        except Unreadable as error:
            missed.append(error)
            parts.append(refused(error))
    if missed and (any(_is_whole(one.annotation) for one in missed) or len(missed) + (type(None) in args) == len(args)):
        raise missed[0]
    return _union(parts, args)


def _is_whole(annotation: Any) -> bool:
    """Tell whether it comes as a request's part of its own, and so is read by itself or not at all."""
    return annotation is File or annotation is Request or getattr(annotation, "__module__", "") == "PIL.Image"


def _union(parts: Sequence[Convert], args: Sequence[Any]) -> Convert:
    exact = {bool: bool, int: int, float: float, str: str, type(None): type(None)}

    def convert(value: Any, path: str) -> Any:
        for part, annotation in zip(parts, args):  # noqa: B905 - 3.10 knows it, and they are of one length
            if type(value) is exact.get(annotation):  # 1 is an int before it is a float, "1" a text before a number
                return part(value, path)
        errors = []
        for part in parts:
            try:
                return part(value, path)
            except Invalid as error:
                errors.append(error)
        deepest = max(errors, key=lambda error: len(error.path))
        if len(deepest.path) > len(path):
            raise deepest
        raise Invalid.unlike(path, f"one of {', '.join(_shown(one) for one in args)}", value)

    return convert


def _shown(annotation: Any) -> str:
    return "null" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def _literal(allowed: Sequence[Any]) -> Convert:
    def convert(value: Any, path: str) -> Any:
        for one in allowed:
            if one == value and type(one) is type(value):
                return one
        raise Invalid(path, f"expected one of {', '.join(json.dumps(one, default=str) for one in allowed)}")

    return convert


def _generic(origin: Any, args: tuple[Any, ...]) -> Convert:
    if origin is tuple:
        return _tuple(args)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(args)
    if isinstance(origin, type) and (issubclass(origin, (Sequence, Set)) or origin in LISTED):
        return _sequence(origin, converter(args[0]) if args else _as_it_is)
    if isinstance(origin, type):
        return _of_class(origin)
    raise Unreadable(origin)


LISTED = frozenset({Iterable, Collection, Container, Reversible})  # of which a list is one


def _sequence(origin: type, item: Convert) -> Convert:
    build: Callable[[list[Any]], Any] = list
    as_it_is = EXACT.get(item)  # a type whose values need no conversion: all of them are looked at in one go
    if issubclass(origin, Set):
        build = frozenset if origin is frozenset else set
    elif issubclass(origin, deque):
        build = deque

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            raise Invalid.unlike(path, "a list", value)
        is_exact = as_it_is is not None and as_it_is.issuperset(map(type, value))
        if is_exact and (item is not to_float or math.isfinite(sum(value))):
            return build(value)
        items = [item(one, f"{path}[{index}]") for index, one in enumerate(value)]
        try:
            return build(items)
        except TypeError:
            raise Invalid(path, "the items of a set are plain values") from None

    return convert


def _tuple(args: tuple[Any, ...]) -> Convert:
    if len(args) == 2 and args[1] is Ellipsis:
        items = _sequence(list, converter(args[0]))
        return lambda value, path: tuple(items(value, path))
    parts = [converter(one) for one in args]

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            raise Invalid.unlike(path, "a list", value)
        if args and len(value) != len(parts):
            raise Invalid(path, f"expected a list of {len(parts)}, not of {len(value)}")
        if not args:
            return tuple(value)
        return tuple(part(one, f"{path}[{i}]") for i, (part, one) in enumerate(zip(parts, value)))  # noqa: B905

    return convert


def _mapping(args: tuple[Any, ...]) -> Convert:
    key, item = (converter(args[0]), converter(args[1])) if len(args) == 2 else (_as_it_is, _as_it_is)
    reads_text = bool(args) and args[0] is not str

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise Invalid.unlike(path, "an object", value)
        return {
            key(from_text(name) if reads_text else name, f"{path}.{name}"): item(one, f"{path}.{name}")
            for name, one in value.items()
        }

    return convert


def from_text(text: str) -> Any:
    """Return what a text of a query or a form says where it stands for a plain value: a number, true, false or null."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, (dict, list)) else value


def _refuse(name: str) -> Any:
    raise ValueError(name)


def is_of_ours(annotation: Any) -> bool:
    """Tell whether values of an annotated type are made without any code of the user's: plain ones, and what holds
    those. Models are classes of theirs, with whatever checks they make."""
    with understood(annotation) as found:
        return _is_of_ours(found)


def _is_of_ours(annotation: Any) -> bool:
    if annotation is Any or annotation is None or annotation is type(None):
        return True
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation in SCALARS or annotation in {list, dict, tuple, set, frozenset} or is_array(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return True
    if origin in UNIONS or origin in {list, dict, tuple, set, frozenset}:
        return all(one is Ellipsis or is_of_ours(one) for one in args)
    return False


# Classes


def _of_class(kind: type) -> Convert:
    if kind in SCALARS:
        return SCALARS[kind]
    for one, converting in _making.get():
        if one is kind:
            return converting
    if issubclass(kind, Enum):
        return _enum(kind)
    if is_pydantic(kind):
        return _pydantic(kind.__pydantic_validator__)  # type: ignore[attr-defined]
    if is_struct(kind):
        return _struct(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    if typing.is_typeddict(kind):
        return _typed_dict(kind)
    if kind is tuple:
        return _tuple(())
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named_tuple(kind)
    if is_array(kind):
        return _array
    if issubclass(kind, dict):
        return _mapping(())
    if kind in LISTED or issubclass(kind, (list, set, frozenset)) or kind.__module__ in _OF_CONTAINERS:
        return _of_container(kind)
    return _of_other(kind)


_OF_CONTAINERS = frozenset({"collections", "collections.abc"})


def _of_container(kind: type) -> Convert:
    if issubclass(kind, Mapping):
        return _mapping(())
    if kind in LISTED or issubclass(kind, (Sequence, Set)):
        return _sequence(kind, _as_it_is)
    if kind in {Hashable, Sized}:
        return _as_it_is
    raise Unreadable(kind)


def _of_other(kind: type) -> Convert:
    if (known := scalar_of(kind)) is not None:
        return known
    if (base := plain_base_of(kind)) is not None:
        return made_of(kind, SCALARS[base])
    if is_pydantics_own(kind):
        return _of_pydantics(kind)
    if getattr(kind, "_is_protocol", False):
        return _as_it_is  # whatever has what it asks for
    raise Unreadable(kind)


def plain_base_of(kind: type) -> type | None:
    """Return the type of plain values that a class is derived from; None if it is of none."""
    return next((one for one in (str, int, float, bytes) if issubclass(kind, one)), None)


def _enum(kind: type[Enum]) -> Convert:
    def convert(value: Any, path: str) -> Any:
        try:
            return kind(value)
        except ValueError:
            allowed = ", ".join(json.dumps(one.value, default=str) for one in kind)
            raise Invalid(path, f"expected one of {allowed}") from None

    return convert


def is_pydantic(kind: type) -> bool:
    """Tell whether it is a model of pydantic, or a dataclass of its own."""
    return hasattr(kind, "__pydantic_validator__") and "pydantic" in sys.modules


def is_pydantics_own(kind: Any) -> bool:
    """Tell whether pydantic knows how to read a class that is no model, as those which it has itself."""
    return "pydantic" in sys.modules and hasattr(kind, "__get_pydantic_core_schema__")


def _of_pydantics(kind: type) -> Convert:
    try:
        return _pydantic(sys.modules["pydantic"].TypeAdapter(kind).validator)
    except Exception:  # noqa: BLE001 - as where a package is missing that it needs for this one
        return _as_it_is


def _pydantic(validator: Any) -> Convert:
    def convert(value: Any, path: str) -> Any:
        try:
            # As JSON, where texts are dates and lists are sets: what came is JSON, and is read by its rules.
            text = json.dumps(value, allow_nan=False)
        except ValueError:
            raise Invalid(path, "a number in it is too large") from None
        try:
            return validator.validate_json(text)
        except ValueError as error:
            first, *others = error.errors(include_url=False)  # type: ignore[attr-defined]
            raise Invalid(path + path_of(first["loc"]), str(first["msg"]), more=len(others)) from None

    return convert


def is_struct(kind: type) -> bool:
    return hasattr(kind, "__struct_fields__") and "msgspec" in sys.modules


def _struct(kind: type) -> Convert:
    msgspec = sys.modules["msgspec"]

    def convert(value: Any, path: str) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            text, _, where = str(error).rpartition(" - at `$")
            raise Invalid(path + where.rstrip("`"), text or str(error)) from None

    return convert


def _fields(parts: Mapping[str, tuple[Convert, bool]], build: Callable[..., Any]) -> Convert:
    """``parts``: of each field how it is converted, and whether it must be there."""

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise Invalid.unlike(path, "an object", value)
        if unknown := value.keys() - parts.keys():
            name = sorted(unknown)[0]
            raise Invalid(f"{path}.{name}", f"there is no field {name!r}; there are: {', '.join(parts)}")
        found = {}
        errors: list[Invalid] = []
        for name, (part, is_required) in parts.items():
            if name in value:
                try:
                    found[name] = part(value[name], f"{path}.{name}")
                except Invalid as error:
                    errors.append(error)
            elif is_required:
                errors.append(Invalid(f"{path}.{name}", "this field is missing"))
        if errors:
            raise Invalid.all_of(errors)
        try:
            return build(**found)
        except (ValueError, TypeError) as error:  # of a check that the class itself makes
            raise Invalid(path, str(error)) from error

    return convert


def _fields_of_class(kind: Any, build: Any, fields: Mapping[str, tuple[Any, bool]]) -> Convert:
    """``fields``: of each its annotation, and whether it must be there."""
    parts: dict[str, tuple[Convert, bool]] = {}
    converting = _fields(parts, build)
    token = _making.set((*_making.get(), (kind, converting)))  # a class may name itself
    try:
        for name, (annotation, is_required) in fields.items():
            with unreadable_are(_otherwise.get() if is_required else refused):
                parts[name] = converter(annotation), is_required
    finally:
        _making.reset(token)
    return converting


def _dataclass(kind: Any) -> Convert:
    hints = fields_of(kind)
    fields = [one for one in dataclasses.fields(kind) if one.init]
    required = {one.name for one in fields if one.default is _MISSING and one.default_factory is _MISSING}
    return _fields_of_class(kind, kind, {one.name: (hints.get(one.name, Any), one.name in required) for one in fields})


def _typed_dict(kind: Any) -> Convert:
    hints = fields_of(kind)
    return _fields_of_class(
        kind, dict, {name: (bare(hint), name in kind.__required_keys__) for name, hint in hints.items()}
    )


def bare(hint: Any) -> Any:
    """Return what stands in ``Required[…]`` and ``NotRequired[…]``."""
    name = getattr(get_origin(hint), "_name", "") or getattr(get_origin(hint), "__name__", "")
    return get_args(hint)[0] if name in {"Required", "NotRequired", "ReadOnly"} else hint


def _named_tuple(kind: Any) -> Convert:
    hints = fields_of(kind)
    fields = {name: (hints.get(name, Any), name not in kind._field_defaults) for name in kind._fields}
    by_name = _fields_of_class(kind, kind, fields)

    def convert(value: Any, path: str) -> Any:
        if isinstance(value, list):
            if len(value) > len(kind._fields):
                raise Invalid(path, f"expected at most {len(kind._fields)} values, not {len(value)}")
            value = dict(zip(kind._fields, value))  # noqa: B905 - what is missing is told by name
        return by_name(value, path)

    return convert


def is_array(kind: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and kind is numpy.ndarray


def _array(value: Any, path: str) -> Any:
    numpy = sys.modules["numpy"]
    if isinstance(value, numpy.ndarray):
        return value
    try:
        array = numpy.asarray(value)
    except ValueError:
        raise Invalid(path, "expected an array: nested lists of numbers, all of one length") from None
    if array.dtype.kind not in "biufc":
        raise Invalid(path, "expected an array: nested lists of numbers, all of one length")
    if array.dtype.kind in "fc" and not numpy.isfinite(array).all():
        raise Invalid(path, "a number in it is too large")
    return array

"""JSON to values of the types that an endpoint's annotations name, and values to JSON.

Standard library only; models of pydantic and msgspec, NumPy arrays and images of Pillow are known where the function's
own environment has them. Pure.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Reversible, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

from stoker.web.annotations import Unreadable, fields_of

DEPTH_MAX = 100  # nested containers in what is returned: more is a value that holds itself
TOO_LARGE = "the number is too large"
_INFINITE = (math.inf, -math.inf)
SHOWN_CHARACTERS = 40  # of a value that is not what it should be
_MISSING = dataclasses.MISSING
UNIONS = (Union, getattr(types, "UnionType", Union))


class Invalid(Exception):
    """What came is not what the annotation says. ``path`` is where, as in ``$.points[2].x``; ``more`` things are wrong
    besides."""

    def __init__(self, path: str, message: str, *, more: int = 0) -> None:
        super().__init__(f"{path}: {message}{f' (and {more} more)' if more else ''}")
        self.path = path
        self.message = message
        self.more = more

    @classmethod
    def all_of(cls, errors: Sequence[Invalid]) -> Invalid:
        """Return the first of these, which says how many there are besides."""
        first = errors[0]
        return cls(first.path, first.message, more=first.more + sum(1 + one.more for one in errors[1:]))


Convert = Callable[[Any, str], Any]


def converter(annotation: Any) -> Convert:
    """Return what makes a value of the annotated type of what JSON has; it raises `Invalid`.

    ``Any``, ``object`` and variables of types without a bound are taken as they come.

    Raises:
        Unreadable: it is a type that nothing in JSON is a value of.
    """
    annotation = meant(annotation)
    if annotation is Any or annotation is object or annotation is _MISSING:
        return _as_it_is
    if annotation is None or annotation is type(None):
        return _null
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in UNIONS:
        return _union([converter(one) for one in args], args)
    if origin is Literal:
        return _literal(args)
    if origin is not None:
        return _generic(origin, args)
    if isinstance(annotation, type):
        return _of_class(annotation)
    raise Unreadable(annotation)


def meant(annotation: Any) -> Any:
    """Return what a type stands for that is a name for another, or says more of it: a ``NewType``, a ``type X = …``, a
    variable's bound, what is ``Annotated``."""
    while True:
        if get_origin(annotation) is typing.Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, typing.TypeVar):
            annotation = Any if annotation.__bound__ is None else annotation.__bound__
        elif (known := getattr(annotation, "__supertype__", None)) is not None and callable(annotation):
            annotation = known
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


def _as_it_is(value: Any, path: str) -> Any:
    return value


def _null(value: Any, path: str) -> None:
    if value is not None:
        raise Invalid(path, f"expected null, not {_kind(value)}")


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
        raise Invalid(path, f"{_kind(value)} is none of: {', '.join(_shown(one) for one in args)}")

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
    as_it_is = _EXACT.get(item)  # a type whose values need no conversion: all of them are looked at in one go
    if issubclass(origin, Set):
        build = frozenset if origin is frozenset else set

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            raise Invalid(path, f"expected a list, not {_kind(value)}")
        is_exact = as_it_is is not None and as_it_is.issuperset(map(type, value))
        if is_exact and (item is not _float or math.isfinite(sum(value))):
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
            raise Invalid(path, f"expected a list, not {_kind(value)}")
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
            raise Invalid(path, f"expected an object, not {_kind(value)}")
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
    annotation = meant(annotation)
    if annotation is Any or annotation is None or annotation is type(None):
        return True
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation in _SCALARS or annotation in {list, dict, tuple, set, frozenset} or is_array(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return True
    if origin in UNIONS or origin in {list, dict, tuple, set, frozenset}:
        return all(one is Ellipsis or is_of_ours(one) for one in args)
    return False


# Classes


def _of_class(kind: type) -> Convert:
    if kind in _SCALARS:
        return _SCALARS[kind]
    if issubclass(kind, Enum):
        return _enum(kind)
    if is_pydantic(kind):
        return _pydantic(kind)
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
    if kind in LISTED or issubclass(kind, (list, set, frozenset)) or kind.__module__ == "collections.abc":
        return _of_container(kind)
    if (base := plain_base_of(kind)) is not None:
        return _made_of(kind, _SCALARS[base])
    if getattr(kind, "_is_protocol", False):
        return _as_it_is  # whatever has what it asks for
    raise Unreadable(kind)


def _of_container(kind: type) -> Convert:
    if issubclass(kind, Mapping):
        return _mapping(())
    if kind in LISTED or issubclass(kind, (Sequence, Set)):
        return _sequence(kind, _as_it_is)
    raise Unreadable(kind)


def plain_base_of(kind: type) -> type | None:
    """Return the type of plain values that a class is derived from; None if it is of none."""
    return next((one for one in (str, int, float, bytes) if issubclass(kind, one)), None)


def _made_of(kind: Any, part: Convert) -> Convert:
    """Return how a plain value becomes one of a class of the user's that is derived from its own."""

    def convert(value: Any, path: str) -> Any:
        plain_value = part(value, path)
        try:
            return kind(plain_value)
        except (ValueError, TypeError) as error:  # of a check that the class makes
            raise Invalid(path, str(error)) from error

    return convert


def _bool(value: Any, path: str) -> bool:
    if isinstance(value, bool):
        return value
    raise Invalid(path, f"expected true or false, not {_kind(value)}")


def _int(value: Any, path: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise Invalid(path, f"expected a whole number, not {_kind(value)}")


def _float(value: Any, path: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            raise Invalid(path, TOO_LARGE) from None
        if found in _INFINITE:  # 1e999, which Python reads as that, is a number of JSON
            raise Invalid(path, TOO_LARGE)
        return found
    raise Invalid(path, f"expected a number, not {_kind(value)}")


def _str(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    raise Invalid(path, f"expected a text, not {_kind(value)}")


def _bytes(value: Any, path: str) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(_str(value, path), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(path, "expected bytes in base64") from None


def _parsed(parse: Callable[[str], Any], what: str) -> Convert:
    def convert(value: Any, path: str) -> Any:
        text = _str(value, path)
        try:
            return parse(text)
        except (ValueError, InvalidOperation):
            raise Invalid(path, f"expected {what}") from None

    return convert


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)


def _decimal(value: Any, path: str) -> Decimal:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Decimal(str(_float(value, path) if isinstance(value, float) else value))
    found: Decimal = _parsed(Decimal, "a decimal number")(value, path)
    if not found.is_finite():
        raise Invalid(path, "expected a decimal number that is finite")
    return found


def _timedelta(value: Any, path: str) -> timedelta:
    try:
        return timedelta(seconds=_float(value, path))
    except OverflowError:
        raise Invalid(path, "so many seconds are no duration") from None


def _complex(value: Any, path: str) -> complex:
    return complex(_float(value, path))


_EXACT: dict[Convert, frozenset[type]] = {
    _bool: frozenset({bool}),
    _int: frozenset({int}),
    _float: frozenset({float}),
    _str: frozenset({str}),
}

_SCALARS: dict[type, Convert] = {
    bool: _bool,
    int: _int,
    float: _float,
    complex: _complex,
    str: _str,
    bytes: _bytes,
    bytearray: lambda value, path: bytearray(_bytes(value, path)),
    datetime: _parsed(_moment, "a time such as 2026-01-31T12:00:00Z"),
    date: _parsed(date.fromisoformat, "a date such as 2026-01-31"),
    time: _parsed(time.fromisoformat, "a time of day such as 12:00:00"),
    timedelta: _timedelta,
    Decimal: _decimal,
    UUID: _parsed(UUID, "a UUID"),
}


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


def _pydantic(kind: Any) -> Convert:
    def convert(value: Any, path: str) -> Any:
        try:
            # As JSON, where texts are dates and lists are sets: what came is JSON, and is read by its rules.
            text = json.dumps(value, allow_nan=False)
        except ValueError:
            raise Invalid(path, "a number in it is too large") from None
        try:
            return kind.__pydantic_validator__.validate_json(text)
        except ValueError as error:
            first, *others = error.errors(include_url=False)  # type: ignore[attr-defined]
            raise Invalid(path + _path_of(first["loc"]), str(first["msg"]), more=len(others)) from None

    return convert


def _path_of(places: Sequence[Any]) -> str:
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in places)


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
            raise Invalid(path, f"expected an object, not {_kind(value)}")
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


def _dataclass(kind: Any) -> Convert:
    hints = fields_of(kind)
    parts: dict[str, tuple[Convert, bool]] = {}
    converting = _fields(parts, kind)
    _making.append((kind, converting))  # a class may name itself
    try:
        for one in dataclasses.fields(kind):
            if one.init:
                required = one.default is _MISSING and one.default_factory is _MISSING
                parts[one.name] = (_known(hints.get(one.name, Any)), required)
    finally:
        _making.pop()
    return converting


_making: list[tuple[Any, Convert]] = []


def _known(annotation: Any) -> Convert:
    """Return the converter of a field: that of a class which is being made now is looked up when it is used."""
    for kind, converting in _making:
        if annotation is kind:
            return converting
        if get_origin(annotation) in UNIONS and kind in get_args(annotation):
            parts = [_known(one) for one in get_args(annotation)]
            return _union(parts, get_args(annotation))
        if get_origin(annotation) is list and get_args(annotation) == (kind,):
            return _sequence(list, converting)
    return converter(annotation)


def _typed_dict(kind: Any) -> Convert:
    hints = fields_of(kind)
    parts = {name: (converter(bare(hint)), name in kind.__required_keys__) for name, hint in hints.items()}
    return _fields(parts, dict)


def bare(hint: Any) -> Any:
    """Return what stands in ``Required[…]`` and ``NotRequired[…]``."""
    name = getattr(get_origin(hint), "_name", "") or getattr(get_origin(hint), "__name__", "")
    return get_args(hint)[0] if name in {"Required", "NotRequired", "ReadOnly"} else hint


def _named_tuple(kind: Any) -> Convert:
    hints = fields_of(kind)
    parts = {name: (converter(hints.get(name, Any)), name not in kind._field_defaults) for name in kind._fields}
    by_name = _fields(parts, kind)

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


# Values to JSON


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
    if isinstance(value, (Set, types.GeneratorType)):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Decimal, UUID, PurePath)):
        return str(value)
    raise _formless(value)


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
    (("__pydantic_serializer__",), lambda value: value.model_dump(mode="json")),
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

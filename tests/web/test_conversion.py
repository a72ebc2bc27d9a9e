"""JSON to values of annotated types and back, and what is said of values that are not of them."""

from __future__ import annotations

import json
import math
import numbers
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, NewType, Optional, Protocol, TypedDict, TypeVar, Union
from uuid import UUID

import msgspec
import numpy as np
import pydantic
import pytest
from typing_extensions import LiteralString, TypeAliasType

from stoker.web.annotations import Unreadable
from stoker.web.conversion import converter, is_of_ours
from stoker.web.encoding import to_json
from stoker.web.scalars import Invalid


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    y: float = 0.0


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)
    parent: Tree | None = None


class Named(NamedTuple):
    a: int
    b: str = "b"


class Typed(TypedDict, total=False):
    a: int


class Struct(msgspec.Struct):
    a: int


class Model(pydantic.BaseModel):
    a: int
    when: datetime = datetime(2026, 1, 1)


class Plain:
    pass


JSON = Union[dict[str, "JSON"], list["JSON"], str, int, None]  # noqa: UP007 - as users write it
Numbers = TypeAliasType("Numbers", "dict[str, Numbers] | int")
N = TypeVar("N")
Nested = TypeAliasType("Nested", "list[N | Nested[N]]", type_params=(N,))


@dataclass
class Forest:
    name: str
    trees: dict[str, Forest] = field(default_factory=dict)


class Positive(int):
    def __init__(self, value: int) -> None:
        if value < 0:
            raise ValueError("it is below 0")


class Closes(Protocol):
    def close(self) -> None: ...


Ident = NewType("Ident", int)
T = TypeVar("T")


@dataclass
class Holder:
    x: int
    lock: threading.Lock


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, 3, 3),
        (int, 3.0, 3),
        (float, 3, 3.0),
        (bool, True, True),
        (str, "a", "a"),
        (bytes, "YWI=", b"ab"),
        (Any, {"a": [1]}, {"a": [1]}),
        (None, None, None),
        (Optional[int], None, None),  # noqa: UP045 - both spellings are users'
        (int | str, "3", "3"),
        (Union[float, str], 3, 3.0),  # noqa: UP007
        (Literal["a", 1], 1, 1),
        (list[int], [1, 2], [1, 2]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (set[int], [1, 1], {1}),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (Colour, "red", Colour.RED),
        (datetime, "2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=timezone.utc)),
        (timedelta, 1.5, timedelta(seconds=1.5)),
        (Decimal, "1.10", Decimal("1.10")),
        (UUID, "12345678123456781234567812345678", UUID(int=0x12345678123456781234567812345678)),
        (Point, {"x": 1}, Point(1.0)),
        (Tree, {"name": "a", "children": [{"name": "b"}]}, Tree("a", [Tree("b")])),
        (Named, {"a": 1}, Named(1)),
        (Named, [1, "c"], Named(1, "c")),
        (Typed, {"a": 1}, {"a": 1}),
        (Struct, {"a": 1}, Struct(1)),
        (Positive, 3, Positive(3)),
        (Ident, 3, 3),
        (Annotated[Ident, "row"], 3, 3),
        (T, 3, 3),
        (object, "a", "a"),
        (Closes, {}, {}),
        (Iterable[int], [1.0], [1]),
        (Mapping, {"a": 1}, {"a": 1}),
        (Path, "a/b", Path("a/b")),
        (str | Path, "a", "a"),
        (Fraction, "3/4", Fraction(3, 4)),
        (Fraction, 0.5, Fraction(1, 2)),
        (IPv4Address, "10.0.0.1", IPv4Address("10.0.0.1")),
        (numbers.Real, 1.5, 1.5),
        (numbers.Integral, 2.0, 2),
        (deque, [1], deque([1])),
        (deque[int], [1.0], deque([1])),
        (np.float32, 1, np.float32(1)),
        (np.int64, 2**40, np.int64(2**40)),
        (np.bool_, True, np.bool_(True)),
        (np.floating, 1, 1.0),
        (Final[int], 1, 1),
        (LiteralString, "a", "a"),
        (TypeVar("N", bound="Nowhere"), [1], [1]),  # noqa: F821
        (pydantic.SecretStr, "a", pydantic.SecretStr("a")),
        (pydantic.AnyUrl, "http://a/b", pydantic.AnyUrl("http://a/b")),
        (pydantic.JsonValue, {"a": [{"b": [1]}]}, {"a": [{"b": [1]}]}),
        (JSON, {"a": [{"b": [None, 1]}]}, {"a": [{"b": [None, 1]}]}),
        (list[JSON], [{"a": "b"}], [{"a": "b"}]),
        (Numbers, {"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 1}}}),
        (Nested[int], [[1], 1.0], [[1], 1]),
        (Forest, {"name": "a", "trees": {"b": {"name": "b"}}}, Forest("a", {"b": Forest("b")})),
        (list[float] | Plain, [1], [1.0]),
        (Model, {"a": 1, "when": "2026-02-03T00:00:00"}, Model(a=1, when=datetime(2026, 2, 3))),
    ],
)
def test_values_of_annotated_types(annotation: Any, value: Any, expected: Any) -> None:
    found = converter(annotation)(value, "$")
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value", "path", "said"),
    [
        (int, "3", "$", 'a whole number, not the text "3"'),
        (int, "a" * 99, "$", f'not the text "{"a" * 40}…"'),
        (int, "", "$", "a whole number, not an empty text"),
        (int, True, "$", "a whole number, not true"),
        (int, 1.5, "$", "a whole number, not 1.5"),
        (int, math.inf, "$", "a whole number"),
        (float, None, "$", "a number, not null"),
        (float, 10**400, "$", "too large"),
        (float, -math.inf, "$", "too large"),
        (list[float], [1.0, math.inf], "$[1]", "too large"),
        (dict[str, list[float]], {"a": [math.inf, -math.inf]}, "$.a[0]", "too large"),
        (np.ndarray, [[1.0, math.inf]], "$", "too large"),
        (Decimal, math.inf, "$", "too large"),
        (Decimal, "Infinity", "$", "finite"),
        (timedelta, math.inf, "$", "too large"),
        (Model, {"a": math.inf}, "$", "too large"),
        (Model, {"when": "x"}, "$.a", "(and 1 more)"),
        (Point, {"x": "a", "y": "b"}, "$.x", "(and 1 more)"),
        (Tree, {"children": [{"name": 1, "parent": 1}]}, "$.name", "missing (and 2 more)"),
        (str, 3, "$", "a text, not 3"),
        (bytes, "a*", "$", "base64"),
        (list[int], [1, "a"], "$[1]", "a whole number"),
        (tuple[int, int], [1], "$", "a list of 2, not of 1"),
        (set[Any], [[1]], "$", "plain values"),
        (Literal["a"], "b", "$", 'one of "a"'),
        (Colour, "green", "$", '"red", "blue"'),
        (datetime, "yesterday", "$", "a time such as"),
        (UUID, "1", "$", "a UUID"),
        (int | None, "a", "$", 'one of int, null, not the text "a"'),
        (list[Point], [{"x": 1}, {"x": "a"}], "$[1].x", 'a number, not the text "a"'),
        (Point, {}, "$.x", "missing"),
        (Point, {"x": 1, "z": 2}, "$.z", "there is no field 'z'; there are: x, y"),
        (Tree, {"name": "a", "children": [{"name": 1}]}, "$.children[0].name", "a text"),
        (Positive, -1, "$", "it is below 0"),
        (Ident, "a", "$", "a whole number"),
        (Struct, {"a": "x"}, "$.a", "Expected `int`"),
        (Model, {"a": "x"}, "$.a", "integer"),
        (np.ndarray, [[1, 2], [3]], "$", "all of one length"),
        (np.ndarray, ["a"], "$", "numbers"),
        (Named, ["a", 1, 2], "$", "at most 2 values, not 3"),
        (Fraction, "1e999999999", "$", "a fraction such as 3/4"),
        (Fraction, "1/0", "$", "a fraction such as 3/4"),
        (IPv4Address, "10.0.0.256", "$", "an IPv4Address"),
        (np.int8, 128, "$", "from -128 to 127, not 128"),
        (np.float32, 1e300, "$", "too large"),
        (pydantic.AnyUrl, "a", "$", "valid URL"),
        (list[float] | Plain, {}, "$", "expected one of list, Plain, not an object"),
    ],
)
def test_what_is_none_is_told_with_its_path(annotation: Any, value: Any, path: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        converter(annotation)(value, "$")
    assert caught.value.path == path and said in str(caught.value)


@pytest.mark.parametrize("inside", [lambda one: one, lambda one: list.__class_getitem__(one), lambda one: one | None])
@pytest.mark.parametrize("kind", [Plain, np.dtype, threading.Thread, Holder])
def test_what_nothing_in_json_is_read_as_is_refused(kind: Any, inside: Any) -> None:
    with pytest.raises(Unreadable, match="lock" if kind is Holder else kind.__name__):
        converter(inside(kind))


def test_what_is_no_type_of_values_is_refused() -> None:
    for one in (Callable[[], int], Callable):
        with pytest.raises(Unreadable, match="Callable"):
            converter(one)


def test_arrays_come_as_nested_lists_and_go_as_such() -> None:
    array = converter(np.ndarray)([[1, 2], [3, 4]], "$")
    assert array.shape == (2, 2)
    assert json.loads(to_json(array * 0.5)) == [[0.5, 1.0], [1.5, 2.0]]


def test_all_that_has_a_form_in_json_is_returned() -> None:
    value = {
        "point": Point(1.0),
        "colour": Colour.BLUE,
        "when": datetime(2026, 1, 1),
        "id": UUID(int=1),
        "many": {3},
        "raw": b"ab",
        "scalar": np.float32(0.5),
        "texts": deque(
            [Fraction(1, 2), IPv4Address("10.0.0.1"), pydantic.AnyUrl("http://a/"), pydantic.SecretStr("b")]
        ),
        "model": Model(a=1),
        "struct": Struct(2),
        1: [(1, 2)],
    }
    assert json.loads(to_json(value)) == {
        "point": {"x": 1.0, "y": 0.0},
        "colour": "blue",
        "when": "2026-01-01T00:00:00",
        "id": "00000000-0000-0000-0000-000000000001",
        "many": [3],
        "raw": "YWI=",
        "scalar": 0.5,
        "texts": ["1/2", "10.0.0.1", "http://a/", "**********"],
        "model": {"a": 1, "when": "2026-01-01T00:00:00"},
        "struct": {"a": 2},
        "1": [[1, 2]],
    }


def test_what_json_has_no_number_for_is_null() -> None:
    assert json.loads(to_json({"a": math.nan, "b": [math.inf, np.array([1.0, math.nan])]})) == {
        "a": None,
        "b": [None, [1.0, None]],
    }


def test_what_has_no_form_is_named() -> None:
    with pytest.raises(TypeError, match=r"at \$\.a\[1\], of the type object has no form there"):
        to_json({"b": math.nan, "a": [1, object()]})
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(TypeError, match="holds itself"):
        to_json(itself)


def test_which_values_are_made_without_code_of_the_users() -> None:
    class Model(pydantic.BaseModel):
        x: int

    ours: list[Any] = [Any, None, int, str, bytes, datetime, np.ndarray, dict, list[float], dict[str, list[int]]]
    ours += [Annotated[int, {"unit": "ms"}], int | None, tuple[int, ...], Literal["a"], set[UUID], Union[int, str]]  # noqa: UP007 - the older way
    theirs = [Point, Tree, Colour, Named, Model, list[Point], Model | None, dict[str, Tree], type]
    assert [one for one in ours if not is_of_ours(one)] == []
    assert [one for one in theirs if is_of_ours(one)] == []


def test_a_list_of_plain_values_is_still_checked_and_converted() -> None:
    assert converter(list[float])([1.0, 2], "$") == [1.0, 2.0]
    assert [type(one) for one in converter(list[float])([1.0, 2], "$")] == [float, float]
    assert converter(set[str])(["a", "a"], "$") == {"a"}
    with pytest.raises(Invalid, match=r"\$\[1\]: expected a whole number"):
        converter(list[int])([1, True], "$")

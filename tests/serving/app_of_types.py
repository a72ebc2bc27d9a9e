"""Endpoints that take and give what annotations can say, and raise nothing: what is wrong is the request's fault."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import numpy
import pydantic

import stoker

app = stoker.App("types")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(TypedDict, total=False):
    width: int
    height: int


class Pair(NamedTuple):
    first: int
    second: str = ""


@dataclass
class Part:
    name: str
    price: Decimal = Decimal(1)
    at: time_of_day | None = None
    tags: set[str] = field(default_factory=set)
    colour: Colour = Colour.RED
    sizes: list[Size] = field(default_factory=list)


@dataclass
class Thing:
    parts: list[Part]
    by_name: dict[str, float] = field(default_factory=dict)
    made: datetime | None = None
    inner: Thing | None = None


class Order(pydantic.BaseModel, strict=True):  # else pydantic takes `false` for 0, say
    number: Annotated[int, pydantic.Field(ge=0, le=1000)]
    text: Annotated[str, pydantic.StringConstraints(max_length=20)] = ""
    lines: list[dict[str, int]] = []


class Point(msgspec.Struct):
    x: float
    y: Annotated[float, msgspec.Meta(ge=0)] = 0.0


@app.function(concurrency=8)
@stoker.endpoint(requires_token=False)
def thing(thing: Thing, by: int = 1, colours: list[Colour] = []) -> Thing:  # noqa: B006
    """Take a thing and give it back."""
    return thing


@app.function(concurrency=8)
@stoker.endpoint(requires_token=False)
async def later(text: str) -> AsyncIterator[dict[str, str]]:
    yield {"text": text}


@app.function(batch=stoker.Batch(max_size=8, max_wait="1ms"))
@stoker.endpoint(requires_token=False)
def batched(sizes: list[Size]) -> list[int]:
    return [len(size) for size in sizes]


@app.cls(concurrency=8)
class Kept:
    """Most of them, so that they share their workers: each function imports its libraries anew."""

    @stoker.endpoint(requires_token=True)
    def method(self, x: int, y: Colour | None = None) -> int:
        return x

    @stoker.endpoint(requires_token=False)
    def order(self, order: Order) -> Order:
        return order

    @stoker.endpoint(method="PUT", requires_token=False)
    def point(self, point: Point) -> Point:
        return point

    @stoker.endpoint(method="GET", requires_token=False)
    def scalars(  # noqa: PLR0917
        self,
        flag: bool,
        count: int,
        ratio: float,
        text: str,
        day: date,
        lasts: timedelta = timedelta(seconds=1),
        id: UUID | None = None,
        kind: Literal["a", "b", 3] = "a",
        many: list[int] = [],  # noqa: B006
    ) -> dict[str, Any]:
        return {"flag": flag, "count": count, "ratio": ratio, "text": text, "day": day, "many": many}

    @stoker.endpoint(method="DELETE", requires_token=False)
    def delete(self, id: int, colour: Colour | None = None) -> None: ...

    @stoker.endpoint(method="PATCH", requires_token=False)
    def several(
        self, pair: Pair, fixed: tuple[int, str], rest: tuple[float, ...] = (), either: int | str = 0
    ) -> list[Any]:
        return [pair, fixed, rest, either]

    @stoker.endpoint(requires_token=False)
    def array(self, values: numpy.ndarray) -> list[int]:
        return list(values.shape)

    @stoker.endpoint(requires_token=False)
    def files(self, files: list[stoker.File], note: str = "") -> list[int]:
        return [len(one.content) for one in files]

    @stoker.endpoint(requires_token=False)
    def file(self, content: bytes) -> bytes:
        return content

    @stoker.endpoint(method="GET", requires_token=False)
    def items(self, to: Annotated[int, "as many"] = 3) -> Iterator[Pair]:
        for i in range(min(to, 100)):
            yield Pair(i)

    @stoker.endpoint(requires_token=False)
    def anything(self, request: stoker.Request) -> stoker.Response:
        return stoker.Response(request.body, media_type="application/octet-stream")

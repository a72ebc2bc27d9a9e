"""What the tests of serving deploy."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import stoker

app = stoker.App("shop")


@dataclass
class Point:
    x: float
    y: float = 0.0


@app.function()
@stoker.endpoint()
def move(point: Point, by: float = 1.0) -> Point:
    """Move a point to the right."""
    return Point(point.x + by, point.y)


@app.function()
@stoker.endpoint(method="GET", requires_token=False, cors="https://example.org", headers={"X-Kind": "public"})
def double(x: float) -> float:
    """Twice the number."""
    return 2 * x


@app.function()
@stoker.endpoint(method="GET", requires_token=False)
async def slowly(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@app.function()
@stoker.endpoint(requires_token=False)
def length(file: stoker.File) -> dict[str, object]:
    return {"bytes": len(file.content), "name": file.name}


@app.function()
@stoker.endpoint(method="GET", requires_token=False)
def big(size: int) -> bytes:
    return bytes(size)


@app.function()
@stoker.endpoint(method="GET", requires_token=False)
def count(to: int, fail_at: int = -1, pause: float = 0.0) -> Iterator[dict[str, int]]:
    for i in range(to):
        if i == fail_at:
            raise ValueError(f"no {i}")
        yield {"i": i}
        time.sleep(pause)


@app.function()
@stoker.endpoint(method="GET", requires_token=False)
async def count_async(to: int) -> AsyncIterator[int]:
    for i in range(to):
        yield i


@app.function()
@stoker.endpoint(requires_token=False)
def fail(what: str) -> None:
    raise KeyError(what)


@app.function()
@stoker.endpoint(requires_token=False)
def custom(request: stoker.Request) -> stoker.Response:
    said = f"{request.method} {request.path} {request.query} {request.headers.get('x-asked')} {len(request.body)}"
    return stoker.Response(said, status=201, headers={"X-Answered": "yes"})


@app.function()
@stoker.endpoint(requires_token=False)
def reflects(name: str, value: str) -> stoker.Response:
    return stoker.Response("fine", headers={name: value})


@app.function(lost_retries=2)
@stoker.endpoint(method="GET", requires_token=False)
def dies_once(marker: str) -> str:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "answered by another worker"
    os.kill(os.getpid(), 9)
    return ""


@app.function(max_workers=1, max_pending=2)
@stoker.endpoint(method="GET", requires_token=False)
def narrow(until: str) -> str:
    os.close(os.open(f"{until}.awaited", os.O_CREAT))
    while not os.path.exists(until):  # noqa: PTH110
        time.sleep(0.01)
    return "done"


@app.function(max_workers=1)
@stoker.endpoint(method="GET", requires_token=False)
def hangs(marker: str) -> str:
    os.close(os.open(f"{marker}.began", os.O_CREAT))
    try:
        time.sleep(600)
    finally:
        os.close(os.open(marker, os.O_CREAT))
    return ""


@app.function()
def hidden(x: int) -> int:
    return x

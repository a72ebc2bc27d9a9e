"""A client of HTTP/1.1 that takes little of the processor, in a process of its own: JSON in by stdin, figures out.

closed   so many connections, each asks again when it has been answered
open     requests at a rate, whether earlier ones are answered or not, as from clients that know nothing of each other
idle     connections that have asked once and stay
paths    a path of its own for each request
stream   what a stream's first piece took beyond what the function says it took itself
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
import uvloop

PATIENCE = 3.0  # times the deadline, after which a client hangs up
CONNECTIONS_MAX = 12_000
REFUSED = (429, 503)
LONG_SECONDS = 0.001  # what takes longer is told with its moment, to be held against what the machine did then
FIRST = re.compile(rb"data: ([0-9.e-]+)\n\n")


@dataclass
class Asked:
    """A request on its way. ``tell`` is given the status, 0 for a connection that was lost, and the seconds."""

    began: float
    tell: Callable[[int, float], None]
    wakes: asyncio.TimerHandle | None = None


class Connection(asyncio.Protocol):
    """One connection: one request at a time. ``pool`` takes it back when it is free."""

    def __init__(self, pool: list[Connection], request: bytes) -> None:
        self._pool = pool
        self.request = request
        self._asked: Asked | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self.body = b""
        self.on_piece: Callable[[bytes], None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_body(self, data: bytes) -> None:
        if self.on_piece is not None:
            self.on_piece(data)

    def on_message_complete(self) -> None:
        asked, self._asked = self._asked, None
        status, keeps = self._parser.get_status_code(), self._parser.should_keep_alive()
        if status < 200:
            self._asked = asked
            return
        self._parser = httptools.HttpResponseParser(self)
        if keeps:
            self._pool.append(self)
        else:
            self._transport.close()
        if asked is not None:
            if asked.wakes is not None:
                asked.wakes.cancel()
            asked.tell(status, time.perf_counter() - asked.began)

    def connection_lost(self, exc: Exception | None) -> None:
        asked, self._asked = self._asked, None
        if self in self._pool:
            self._pool.remove(self)
        if asked is not None:
            if asked.wakes is not None:
                asked.wakes.cancel()
            asked.tell(0, time.perf_counter() - asked.began)

    def ask(self, tell: Callable[[int, float], None], *, patience: float | None = None) -> None:
        wakes = None
        if patience is not None:
            wakes = asyncio.get_running_loop().call_later(patience, self._transport.abort)
        self._asked = Asked(time.perf_counter(), tell, wakes)
        self._transport.write(self.request)


class Client:
    """What asks one address, with a pool of connections."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._port = given["port"]
        body = json.dumps(given["body"]).encode()
        more = "".join(f"{name}: {value}\r\n" for name, value in given.get("headers", {}).items())
        self._body, self._more = body, more
        self.request = self.request_for(given["path"])
        self.free: list[Connection] = []
        self.count = 0

    def request_for(self, path: str) -> bytes:
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(self._body)}\r\n{self._more}\r\n"
        )
        return head.encode() + self._body

    async def connect(self) -> Connection:
        self.count += 1
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: Connection(self.free, self.request), "127.0.0.1", self._port)
        return made


async def closed(client: Client, given: dict[str, Any]) -> dict[str, Any]:
    over = time.perf_counter() + given["seconds"]
    took: list[float] = []
    failed = 0

    async def loop_of(connection: Connection) -> None:
        nonlocal failed
        while time.perf_counter() < over:
            status, seconds = await answered(connection)
            if status == 200:
                took.append(seconds)
            else:
                failed += 1

    connections = [await client.connect() for _ in range(given["connections"])]
    began = time.perf_counter()
    await asyncio.gather(*map(loop_of, connections))
    return {"rate": len(took) / (time.perf_counter() - began), "failed": failed, **percentiles(took)}


async def opened(client: Client, given: dict[str, Any]) -> dict[str, Any]:
    """Ask ``rate`` times a second for ``seconds``, at random moments; a client hangs up after three deadlines.

    A figure counts from when its request was written. ``lag`` says how late that was, by this client's own fault.
    """
    rate, seconds, deadline = given["rate"], given["seconds"], given["deadline"]
    chance = random.Random(0)
    took: dict[int, list[float]] = {}
    long: list[tuple[float, float]] = []
    lags: list[float] = []
    unsent = 0
    waiting: set[asyncio.Task[None]] = set()

    def tell(status: int, took_seconds: float) -> None:
        took.setdefault(status, []).append(took_seconds)
        if status in REFUSED and took_seconds > LONG_SECONDS:
            ended = time.perf_counter()
            long.append((ended - took_seconds, ended))

    async def ask_on_a_new_one() -> None:
        try:
            connection = await client.connect()
        except OSError:
            tell(0, 0.0)
            return
        connection.ask(tell, patience=PATIENCE * deadline)

    began = due = time.perf_counter()
    while due < began + seconds:
        now = time.perf_counter()
        if due > now:
            await asyncio.sleep(due - now)
            continue
        lags.append(now - due)
        if client.free:
            client.free.pop().ask(tell, patience=PATIENCE * deadline)
        elif client.count < CONNECTIONS_MAX:
            task = asyncio.create_task(ask_on_a_new_one())
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        else:
            unsent += 1
        due += chance.expovariate(rate)
        if len(lags) % 64 == 0:
            await asyncio.sleep(0)  # answers are read too where this client is late
    await asyncio.sleep((PATIENCE + 0.5) * deadline)
    return {
        "offered": len(lags) / seconds,
        **of_overload(took, seconds=seconds, deadline=deadline),
        "unsent": unsent,
        "lag_p99": 1e3 * at(sorted(lags), 0.99),
        "long_refusals": long,
    }


def of_overload(took: dict[int, list[float]], *, seconds: float, deadline: float) -> dict[str, Any]:
    """Return what came of requests, by the seconds that answers of each status took.

    Accepted is what was answered, and what was given up on when its deadline came (504).
    """
    served = took.get(200, [])
    accepted = sorted([*served, *took.get(504, [])])
    refused = sorted(each for status in REFUSED for each in took.get(status, []))
    in_time = sum(1 for each in served if each <= deadline)
    return {
        "goodput": in_time / seconds,
        "served": len(served),
        "late": len(accepted) - in_time,
        "accepted_p50": 1e3 * at(accepted, 0.5),
        "accepted_p99": 1e3 * at(accepted, 0.99),
        "accepted_p999": 1e3 * at(accepted, 0.999),
        "accepted_max": 1e3 * at(accepted, 1.0),
        "refused": len(refused),
        "refused_p50": 1e3 * at(refused, 0.5),
        "refused_p99": 1e3 * at(refused, 0.99),
        "refused_p999": 1e3 * at(refused, 0.999),
        "refused_max": 1e3 * at(refused, 1.0),
        "statuses": {str(status): len(those) for status, those in sorted(took.items())},
    }


async def idle(client: Client, given: dict[str, Any]) -> dict[str, Any]:
    """Open connections that have asked once; say so, and hold them until a line comes."""
    for first in range(0, given["connections"], 50):
        made = [await client.connect() for _ in range(min(50, given["connections"] - first))]
        for status, _ in await asyncio.gather(*map(answered, made)):
            if status != 200:
                raise RuntimeError(f"answered with {status}")
    print(json.dumps({"open": len(client.free)}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return {"open": len(client.free)}


async def paths(client: Client, given: dict[str, Any]) -> dict[str, Any]:
    """Ask for ``paths`` paths that nobody else asks for: of no app, of no function, and below the endpoint."""
    numbers = iter(range(given["first"], given["first"] + given["paths"]))
    wrong = 0

    async def loop_of(connection: Connection) -> None:
        nonlocal wrong
        for i in numbers:
            path, wanted = ((f"/app{i}/f", 404), (f"/bench/f{i}", 404), (f"{given['path']}/{i}", 200))[i % 3]
            connection.request = client.request_for(path)
            status, _ = await answered(connection)
            wrong += status != wanted

    connections = [await client.connect() for _ in range(given["connections"])]
    began = time.perf_counter()
    await asyncio.gather(*map(loop_of, connections))
    return {"rate": given["paths"] / (time.perf_counter() - began), "wrong": wrong}


async def stream(client: Client, given: dict[str, Any]) -> dict[str, Any]:
    """Return the milliseconds from the request to the first event, minus those which that says it took itself."""
    connection = await client.connect()
    above: list[float] = []
    for _ in range(given["requests"]):
        began = time.perf_counter()
        first: list[float] = []

        def on_piece(data: bytes, began: float = began, first: list[float] = first) -> None:
            if not first and (found := FIRST.search(data)):
                first.append(time.perf_counter() - began - float(found[1]))

        connection.on_piece = on_piece
        status, _ = await answered(connection)
        if status != 200 or not first:
            raise RuntimeError(f"answered with {status}, and no first event")
        above.append(first[0])
    return percentiles(above)


async def answered(connection: Connection) -> tuple[int, float]:
    done: asyncio.Future[tuple[int, float]] = asyncio.get_running_loop().create_future()
    connection.ask(lambda status, seconds: done.set_result((status, seconds)))
    return await done


def percentiles(seconds: list[float]) -> dict[str, float]:
    found = sorted(seconds)
    return {"p50": 1e3 * at(found, 0.5), "p99": 1e3 * at(found, 0.99)}


def at(found: list[float], share: float) -> float:
    return found[min(len(found) - 1, int(len(found) * share))] if found else 0.0


def main() -> None:
    given = json.loads(sys.stdin.readline())
    does = {"closed": closed, "open": opened, "idle": idle, "paths": paths, "stream": stream}[given["do"]]
    print(json.dumps(uvloop.run(does(Client(given), given))), flush=True)


if __name__ == "__main__":
    main()

"""Starlette under uvicorn, one process: ``python -m bench.served.on_uvicorn WHAT PORT``."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.served.work import echo, slow, until_told


async def answer(request: Request) -> JSONResponse:
    return JSONResponse(echo((await request.json())["x"]))


_one_at_a_time = anyio.CapacityLimiter(1)


async def answer_slowly(request: Request) -> JSONResponse:
    x = (await request.json())["x"]
    return JSONResponse(await anyio.to_thread.run_sync(slow, x, limiter=_one_at_a_time))


def starlette() -> Any:
    return Starlette(routes=[Route("/echo", answer, methods=["POST"]), Route("/slow", answer_slowly, methods=["POST"])])


def serve(app: Any, port: int, *, limit_concurrency: int | None = None) -> None:
    """Serve until told to end."""
    threading.Thread(target=_end_when_told, daemon=True).start()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        limit_concurrency=limit_concurrency,
    )


def _end_when_told() -> None:
    until_told()
    os._exit(0)


def main() -> None:
    # 80 of 5 ms are what the deadline leaves room for
    serve(starlette(), int(sys.argv[2]), limit_concurrency=81 if sys.argv[1] == "slow" else None)


if __name__ == "__main__":
    main()

"""Starlette or FastAPI under uvicorn, one process: ``python -m bench.served.on_uvicorn WHAT PORT``."""

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


def main() -> None:
    what, port = sys.argv[1], int(sys.argv[2])
    if what == "fastapi":
        from bench.served.with_fastapi import site

        app = site()
    else:
        app = starlette()
    threading.Thread(target=_end_when_told, daemon=True).start()
    # 80 of 5 ms are what the deadline leaves room for
    bound = 81 if what == "slow" else None
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, limit_concurrency=bound)


def _end_when_told() -> None:
    until_told()
    os._exit(0)


if __name__ == "__main__":
    main()

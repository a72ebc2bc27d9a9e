"""Starlette or FastAPI under uvicorn, one process: ``python -m bench.served.on_uvicorn WHAT PORT``."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.served.work import echo, until_told


async def answer(request: Request) -> JSONResponse:
    return JSONResponse(echo((await request.json())["x"]))


def starlette() -> Any:
    return Starlette(routes=[Route("/echo", answer, methods=["POST"])])


def main() -> None:
    what, port = sys.argv[1], int(sys.argv[2])
    if what == "fastapi":
        from bench.served.with_fastapi import site

        app = site()
    else:
        app = starlette()
    threading.Thread(target=_end_when_told, daemon=True).start()
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def _end_when_told() -> None:
    until_told()
    os._exit(0)


if __name__ == "__main__":
    main()

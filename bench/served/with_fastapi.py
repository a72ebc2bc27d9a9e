"""A site of FastAPI, which uvicorn serves by itself, and Stoker as an ``asgi_app``."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel


class Asked(BaseModel):
    x: float


class Answer(BaseModel):
    y: float


def site() -> FastAPI:
    app = FastAPI()

    @app.post("/echo")
    async def echo(asked: Asked) -> Answer:
        return Answer(y=2 * asked.x)

    return app

"""A server whose port for HTTP is taken: it runs without, and says so to whoever would want it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from stoker.cli import deploy
from stoker.errors import StokerError
from stoker.server.serving import open_gateway
from stoker.transport.addresses import Address


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def opened(port: int, server: Any, *, is_chosen: bool) -> Any:
    config: Any = SimpleNamespace(http=Address("127.0.0.1", port), http_is_chosen=is_chosen)
    return asyncio.run(open_gateway(config, server))


def test_a_port_that_nobody_chose_is_done_without(taken: int) -> None:
    server: Any = SimpleNamespace(no_http="off")
    assert opened(taken, server, is_chosen=False) is None
    assert f"cannot listen at http://127.0.0.1:{taken}: Address already in use" in server.no_http
    assert "--http HOST:PORT" in server.no_http


def test_one_that_was_chosen_it_must_have(taken: int) -> None:
    with pytest.raises(StokerError, match="cannot listen"):
        opened(taken, SimpleNamespace(no_http=""), is_chosen=True)


def test_whoever_deploys_endpoints_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    item = {
        "app": "shop",
        "version": 1,
        "unchanged": False,
        "functions": [],
        "urls": {},
        "beside": None,
        "no_http": "it is taken.",
    }
    deploy._say(item)
    told = capsys.readouterr().err
    assert "no door for HTTP: it is taken." in told
    assert "stoker server start --http 127.0.0.1:7411" in told

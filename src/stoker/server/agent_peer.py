"""Agents, as the server hears them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stoker.errors import ProtocolError
from stoker.protocol import messages as m
from stoker.server.link import Link

if TYPE_CHECKING:
    from stoker.server.server import Server


class AgentPeer:
    """What an agent's messages mean: the engine knows."""

    def __init__(self, server: Server, link: Link, hello: m.Hello) -> None:
        self._server = server
        self._link = link
        self._engine = server.engine
        self._engine.attach(link, hello, term=server.epoch)

    def received(self, message: Any, body: memoryview) -> None:
        if not self._engine.deliver(self._link, message):
            raise ProtocolError(f"An agent does not send {type(message).__name__}.")

    def closed(self) -> None:
        self._engine.detach(self._link)

"""WebSockets' connections: uvicorn's, with a limit on how slowly a client may read, and news of its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.http11 import Request

from stoker.server.gateway.unread import Unread

KEY = "stoker.socket"  # in the scope


class Socket(WebSocketsSansIOProtocol):
    """See the module. ``on_lost`` is called when the connection has ended, whether or not its client was heard out."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self.on_lost: Callable[[], None] | None = None
        self._unread = Unread()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope[KEY] = self  # type: ignore[literal-required]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    def pause_writing(self) -> None:
        self._unread.is_full(self.loop.time())
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread.has_room()
        super().resume_writing()

    def check(self, now: float) -> None:
        """Disconnect a client that reads nothing: of such a one no closing would ever end."""
        self._unread.check(self.transport, now)


def when_lost(scope: dict[str, Any], call: Callable[[], None]) -> None:
    """Have something done once the client of a WebSocket has gone; at once where it has already."""
    found = scope[KEY]
    if found.disconnected:
        call()
    else:
        found.on_lost = call

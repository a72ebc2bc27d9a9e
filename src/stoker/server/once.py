"""Requests that must not be carried out twice, although a client that reconnects says again what was not answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from stoker.protocol import messages as m

if TYPE_CHECKING:
    from stoker.server.sessions import Session

VERBS = frozenset({"deploy", "rollback", "undeploy", "promote", "abort"})
KEPT = 32  # of a session: it says again what is open, which is one or two


class Said(NamedTuple):
    """A request and what came, or will come, of it."""

    request: m.Request
    answer: asyncio.Future[Any]


async def answer(session: Session, request: m.Request, work: Callable[[], Awaitable[Any]]) -> Any:
    """Do the work of a request, or wait for what came of it when it was said before."""
    said = session.said.get(request.id)
    if said is not None and said.request == request:
        return await asyncio.shield(said.answer)
    mine: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    session.said[request.id] = Said(request, mine)
    while len(session.said) > KEPT:
        del session.said[next(iter(session.said))]
    try:
        mine.set_result(await work())
    except BaseException as error:
        mine.set_exception(error)
        mine.exception()  # looked at, whether or not it is asked for again
        raise
    return mine.result()


def name_of(session: Session, request: m.Request) -> str:
    """Return what tells this request from every other one, also to a server of a later term."""
    return f"{session.name}/{request.id}"

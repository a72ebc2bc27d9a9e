"""What a limited token may do at either door: call what it is for, so often, until it expires.

Over TCP a program that comes with one may look functions up, call them, and look at or cancel calls of them; it is let
in only where the token was made for that, since arguments from Python are pickles, which run what they like.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stoker.core import events as e
from stoker.core.calls import stoker_error
from stoker.errors import InvalidRequest, NotFound, PermissionDenied
from stoker.server.client_tokens import ClientToken
from stoker.server.early_cancels import Asked
from stoker.server.inspection import full_id
from stoker.types import ErrorInfo, FunctionSpec

if TYPE_CHECKING:
    from stoker.server.server import Server
    from stoker.server.sessions import Session

CALLERS_MAY = frozenset({"version", "lookup", "call", "cancel", "flush", "leave"})
"""What a program may ask for whose token is for calling only."""

EXPIRY_SWEEP_SECONDS = 2.0  # for connections whose token has expired; what they ask for is refused at once


def token_of(server: Server, session: Session) -> ClientToken | None:
    """Return the token with which a program came over TCP; None for one of this machine, and for a worker's."""
    return server.client_tokens.get(session.holder) if session.holder else None


def check_verb(token: ClientToken, verb: str) -> None:
    """Make sure that a request is one for calling, if the token is limited to that.

    Raises:
        PermissionDenied: it is not.
    """
    if token.is_limited and verb not in CALLERS_MAY:
        raise PermissionDenied(
            f"The token {token.name!r} is for calling {token.scope} only: it does not allow this ({verb!r}). Who "
            "deploys, runs apps of their own, uses with_options() or parameters of classes, or looks at the server, "
            "needs a token that is not limited to an app."
        )


def refusal(
    server: Server, session: Session, spec: FunctionSpec | None, ids: Sequence[str]
) -> tuple[Sequence[str], ErrorInfo]:
    """Return which of these calls the program's token does not allow, and why.

    What the server has of it already is not counted again, when a program that has reconnected says it.
    """
    nothing = ErrorInfo("", "")
    token = token_of(server, session)
    if token is None:
        return [], nothing
    try:
        if spec is not None:
            token.check_call(spec.app, spec.name)
    except PermissionDenied as error:
        return ids, ErrorInfo("PermissionDenied", str(error))
    bucket = server.client_tokens.bucket(token, server.now())
    if bucket is None:
        return [], nothing
    fresh = [call_id for call_id in ids if call_id not in server.plane.state.calls]
    if not bucket.take(server.now(), len(fresh)):
        return [], nothing
    count = bucket.remaining(server.now())
    bucket.take(server.now(), count)
    return fresh[count:], too_often(token, bucket.take(server.now()))


def too_often(token: ClientToken, wait: float) -> ErrorInfo:
    """Return the error for calls that come too often."""
    message = f"The token {token.name!r} may make {token.rate} calls. Try again in {max(wait, 0.001):.3g} s."
    return ErrorInfo("RateLimited", message, fields={"retry_after": max(wait, 0.001)})


async def call_id_of(server: Server, session: Session, given: str, *, of_requests: bool = False) -> str:
    """Return the id of the call that a program means, as `full_id` does; ids of others are not listed to it.

    Raises:
        InvalidRequest: several calls may be meant, or it is too short.
        NotFound: so it is, and the program's token is limited.
    """
    try:
        return await full_id(server, given, of_requests=of_requests)
    except InvalidRequest:
        token = token_of(server, session)
        if token is None or not token.is_limited:
            raise
        raise NotFound(f"There is no call {given} of {token.scope} here. Write its whole id.") from None


async def check_call_id(server: Server, session: Session, call_id: str, *, given: str = "") -> None:
    """Make sure that a program may know of a call, which it has ``given`` in another way perhaps.

    Raises:
        NotFound: it may not: it is told what it would be of a call that is not there.
    """
    token = token_of(server, session)
    if token is not None and token.is_limited and not await _may_see(server, token, call_id, given or call_id):
        raise NotFound(f"There is no call {given or call_id} of {token.scope} here.")


async def _may_see(server: Server, token: ClientToken, call_id: str, given: str) -> bool:
    call = server.plane.state.calls.get(call_id)
    if call is None and (record := server.records.get(call_id)) is not None:
        call = record.call
    if call is not None:
        return token.allows(call.pool.spec.app, call.pool.spec.name)
    stored = await asyncio.to_thread(server.store.call, call_id)
    if stored is None:
        return given == call_id  # there is none, which it is told, but no id that it does not know
    key = stored.call.function
    spec = server.functions.specs.get(key) or await asyncio.to_thread(server.store.function, key)
    return spec is not None and token.allows(spec.app, spec.name)


def cancel(
    server: Server, session: Session, ids: Sequence[str], *, reason: str, force: bool
) -> tuple[list[str], Asked]:
    """Cancel calls; return those that were open, and what will meet those that are not read back yet.

    A worker's client may cancel only calls of its own app, and a limited token's those of what it is for.
    """
    asked = Asked(reason, force)
    token = token_of(server, session)
    if session.owner:
        worker = server.plane.state.workers.get(session.owner)
        if worker is None:
            return [], asked
        asked.app = worker.pool.spec.app
    elif token is not None:
        asked.app, asked.function = token.app, token.function
    calls = server.plane.state.calls
    known = [
        call_id
        for call_id in ids
        if (call := calls.get(call_id)) and not call.state.settled and asked.allows(call.pool.spec)
    ]
    server.decide(e.CancelAsked(known, reason, force))
    server.early_cancels.keep((call_id for call_id in ids if call_id not in calls), asked)
    return known, asked


def revoke(server: Server, name: str) -> None:
    """Have nobody use a token any more: who came with it has to go, and its attached calls are cancelled."""
    _show_out(server, server.client_tokens.revoke(name).id, "was revoked on the server")


def _show_out(server: Server, holder: str, why: str) -> None:
    said = f"The token of this connection {why}."
    for link in [link for link in server.links if link.holder == holder]:
        link.reject(PermissionDenied(said))
    for session in [session for session in server.sessions.values() if session.holder == holder]:
        session.show_out(stoker_error("PermissionDenied", said, {}))
        server.client_ended(session.name)


async def show_out_expired(server: Server) -> None:
    """Close the connections of tokens as they expire."""
    while True:
        there = {session.holder for session in server.sessions.values()}
        for holder in there & server.client_tokens.expired():
            _show_out(server, holder, "has expired")
        await asyncio.sleep(EXPIRY_SWEEP_SECONDS)


def rate_headers(server: Server, token: ClientToken) -> list[tuple[bytes, bytes]]:
    """Return what an answer says of a token's rate, in the fields of draft-ietf-httpapi-ratelimit-headers-11."""
    now = server.now()
    bucket = server.client_tokens.bucket(token, now)
    if bucket is None:
        return []
    rate = bucket.rate
    left, full = bucket.remaining(now), math.ceil(bucket.until_full(now))
    return [
        (b"ratelimit-policy", b'"token";q=%d;w=%d' % (rate.count, rate.seconds)),
        (b"ratelimit", b'"token";r=%d;t=%d' % (left, full)),
    ]

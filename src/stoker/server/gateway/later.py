"""Calls that are asked for now and fetched later: ``Prefer: respond-async``.

    POST   /<app>/<function>        202 with the call's id, once it is written down
    GET    /v1/calls/<id>           its state
    GET    /v1/calls/<id>/result    its answer; 202 while there is none
    DELETE /v1/calls/<id>           cancel it

They are detached calls, so they outlive the connection and the server. With ``Idempotency-Key`` a request that is sent
again is the same call, also after that has ended, for as long as results are kept; another one with the same key is
refused (draft-ietf-httpapi-idempotency-key-header). Ids cannot be guessed, and a call of a token is that token's alone.
With ``X-Stoker-Callback`` the end of the call is told to a URL: see `stoker.server.callbacks`.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stoker.core import events as e
from stoker.core.calls import Payload, Result, Segment
from stoker.errors import InvalidRequest, NotFound, Overloaded, PermissionDenied, StokerError
from stoker.server.execution import WebOrigin, error_info
from stoker.server.gateway.problems import Problem, told_of
from stoker.server.gateway.request_digests import digest_of, digest_of_file
from stoker.server.gateway.routing import Route
from stoker.server.gateway.web_calls import PUBLIC, WebCalls, session_name
from stoker.server.inspection import call_details, public_why
from stoker.server.watching import stored_delivery
from stoker.server.web_records import PATH_CHARACTERS

if TYPE_CHECKING:
    from stoker.server.server import Server

KEY_MAX_CHARACTERS = 255


def wants_later(preferences: str) -> bool:
    """Tell whether a request's Prefer header asks not to be answered at once (RFC 7240)."""
    return any(part.strip().lower() == "respond-async" for part in preferences.split(","))


@dataclass(frozen=True)
class Wanted:
    """What a request says of being answered later. ``callback``: the URL where its end is told; empty for nowhere."""

    call_id: str
    key: str
    callback: str
    request: str  # its method and path


class LaterCalls:
    """See the module."""

    def __init__(self, server: Server, calls: WebCalls) -> None:
        self._server = server
        self._calls = calls
        self._beginning: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def wanted(
        self, route: Route, scope: dict[str, Any], headers: dict[bytes, bytes], holder: str
    ) -> Wanted | None:
        """Return what a request says of being answered later; None where it is to be answered now.

        Raises:
            Problem: what it says cannot be done.
        """
        if b"prefer" not in headers and b"x-stoker-callback" not in headers:
            return None  # as nearly all of them
        later = wants_later(headers.get(b"prefer", b"").decode("latin-1"))
        if later and route.streams:
            raise Problem(
                400,
                "BadRequest",
                f"{route.label} streams what it yields, so it is answered at once and cannot be fetched later. Ask "
                "without Prefer: respond-async, and with endpoint(resume=…) for a stream that outlives its connection; "
                "or have the function return a list in place of yielding.",
            )
        callback = headers.get(b"x-stoker-callback", b"").decode("latin-1").strip()
        if callback:
            await self._check_callback(callback, holder, is_later=later)
        if not later:
            return None
        key = headers.get(b"idempotency-key", b"").decode("latin-1")
        return Wanted(self._id(route, holder, key), key, callback, _asked_by(scope))

    async def _check_callback(self, url: str, holder: str, *, is_later: bool) -> None:
        if not is_later:
            raise Problem(
                400, "BadRequest", "X-Stoker-Callback goes with Prefer: respond-async, which the request lacks."
            )
        if holder == PUBLIC:
            raise Problem(
                400, "BadRequest", "X-Stoker-Callback goes with a token: what is sent is signed by its secret."
            )
        try:
            await self._server.callbacks.check(url)
        except InvalidRequest as error:
            raise Problem(400, "BadRequest", f"X-Stoker-Callback: {error}") from None
        except PermissionDenied as error:
            raise Problem(403, "PermissionDenied", str(error)) from None
        except Overloaded as error:
            raise Problem(503, "Overloaded", str(error), headers={"retry-after": "60"}) from None

    async def begin(
        self, route: Route, payload: Payload, wanted: Wanted, *, holder: str, deadline: float | None, trace: str = ""
    ) -> Result | None:
        """Have a call made; return why it was refused if it was.

        Raises:
            Problem: its key is another request's, or it was made with another callback; or nothing can be written.
        """
        # Of requests with one key the next is looked at once it is known what became of the one before.
        lock = self._beginning.setdefault(wanted.call_id, asyncio.Lock())
        async with lock:
            digest = await self._digest(payload) if wanted.key else ""
            if wanted.key and await self._is_known(wanted.call_id):
                self._server.discard([payload])
                await self._check_same_request(wanted.call_id, digest)
                await self._check_same_callback(wanted)
                return None
            with self._told_of(wanted, digest):
                return await self._make(route, payload, wanted, holder=holder, deadline=deadline, trace=trace)

    @contextmanager
    def _told_of(self, wanted: Wanted, digest: str) -> Iterator[None]:
        """Have it written down with the call what was asked."""
        origins = self._server.executor.origins
        origins[wanted.call_id] = WebOrigin(wanted.request, digest)
        try:
            yield
        finally:
            del origins[wanted.call_id]

    async def _make(
        self, route: Route, payload: Payload, wanted: Wanted, *, holder: str, deadline: float | None, trace: str
    ) -> Result | None:
        call_id = wanted.call_id
        if wanted.callback:
            try:
                await self._server.callbacks.ask(call_id, wanted.callback, holder=holder)
            except StokerError as error:
                self._server.discard([payload])
                told = told_of(error_info(error))
                raise Problem(503, type(error).__name__, told, headers={"retry-after": "1"}) from None
        call = self._calls.submit(
            *(route.spec, route.key, payload),
            holder=holder,
            deadline=deadline,
            detached_as=call_id,
            method=route.method,
            trace=trace,
        )
        await call.wait_accepted()
        self._calls.let_go(call)
        if call.is_accepted:
            return None
        self._server.callbacks.drop(call_id)
        return call.result

    async def _digest(self, payload: Payload) -> str:
        if not isinstance(payload, Segment):
            return digest_of(bytes(payload))
        files = self._server.files
        path = files.segments / payload.name
        return await asyncio.to_thread(digest_of_file, path if path.exists() else files.spill / payload.name)

    async def _check_same_request(self, call_id: str, digest: str) -> None:
        record = await asyncio.to_thread(self._server.store.call, call_id)
        if record is not None and record.call.digest not in {"", digest}:
            raise Problem(
                422,
                "IdempotencyKeyReused",
                f"This Idempotency-Key was sent before with another request ({record.call.request}; its call is "
                f"{call_id}). Send the same method, query and body again, or a new key for a new request.",
            )

    async def _check_same_callback(self, wanted: Wanted) -> None:
        found = await asyncio.to_thread(self._server.store.callback, wanted.call_id)
        if wanted.callback and (found is None or found.url != wanted.callback):
            raise Problem(
                409,
                "BadRequest",
                "The request of this Idempotency-Key was made before, "
                f"{'without a callback' if found is None else 'with another callback'}: that one counts.",
            )

    def _id(self, route: Route, holder: str, key: str) -> str:
        if not key:
            return f"h-{secrets.token_hex(16)}"
        if holder == PUBLIC:
            raise Problem(400, "BadRequest", "Idempotency-Key goes with a token: else it would be anybody's.")
        if len(key) > KEY_MAX_CHARACTERS or not key.isprintable():
            raise Problem(400, "BadRequest", f"An Idempotency-Key has 1 to {KEY_MAX_CHARACTERS} printable characters.")
        text = "\0".join([holder, route.spec.app, route.path, key])
        return f"h-{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    async def _is_known(self, call_id: str) -> bool:
        if call_id in self._server.plane.state.calls:
            return True
        return bool(await asyncio.to_thread(self._server.store.known, [call_id]))

    async def state_name(self, call_id: str) -> str:
        """Return the state of a call that has just been asked for; with a key it may have ended long ago."""
        found: str = (await call_details(self._server, call_id))["state"]
        return found

    async def state(self, call_id: str, holder: str) -> dict[str, Any]:
        """Return what is known of a call.

        Raises:
            Problem: there is none, or it is another token's.
        """
        await self._check_holder(call_id, holder)
        try:
            found = await call_details(self._server, call_id)
        except NotFound:
            raise _unknown(call_id, holder) from None
        told = {
            name: found[name] for name in ("function", "state", "created", "started", "seconds", "attempts", "version")
        }
        status = (found["http"] or {}).get("status")
        callback = await self._server.callbacks.of_call(call_id)
        shown = ("url", "state", "attempts", "at", "said")
        return {
            "call_id": call_id,
            **told,
            **({"status": status} if status else {}),
            **({"callback": {name: callback[name] for name in shown}} if callback is not None else {}),
            **({"why": why} if (why := self._why(call_id)) else {}),
            **({"error": await self._error(call_id)} if found.get("error") else {}),
        }

    def _why(self, call_id: str) -> str:
        call = self._server.plane.state.calls.get(call_id)
        return public_why(self._server, call) if call is not None else ""

    async def _error(self, call_id: str) -> str:
        """Return what a call has failed with, as its result says it."""
        record = self._server.records.get(call_id)
        error = record.error if record is not None else None
        if error is None:
            stored = await asyncio.to_thread(self._server.store.call, call_id)
            error = stored.settled.error if stored is not None and stored.settled is not None else None
        return f"{error.name}: {told_of(error)}" if error is not None else ""

    async def result(self, call_id: str, holder: str) -> Result | None:
        """Return how a call has ended; None if it has not.

        Raises:
            Problem: there is none, or it is another token's.
        """
        await self._check_holder(call_id, holder)
        if call_id in self._server.plane.state.calls:
            return None
        server = self._server

        def read() -> Result:
            record = server.store.call(call_id)
            if record is not None and record.settled is not None:
                server.files.bring([record.settled.payload_blob])
            return stored_delivery(call_id, record, server.files.spill).result

        return await asyncio.to_thread(read)

    async def cancel(self, call_id: str, holder: str) -> bool:
        """Cancel a call; false if it has ended.

        Raises:
            Problem: there is none, or it is another token's.
        """
        await self._check_holder(call_id, holder)
        if call_id not in self._server.plane.state.calls:
            return False
        self._server.decide(e.CancelAsked([call_id], "it was cancelled over HTTP"))
        self._server.flush()
        return True

    async def is_public(self, call_id: str) -> bool:
        """Tell whether a call is that of an endpoint that asked for no token: its id is what opens it."""
        try:
            await self._check_holder(call_id, PUBLIC)
        except Problem:
            return False
        return True

    async def _check_holder(self, call_id: str, holder: str) -> None:
        """Whether a call is somebody else's is told nobody: it is as if it were not there."""
        call = self._server.plane.state.calls.get(call_id)
        client = call.client if call is not None else ""
        if call is None:
            stored = await asyncio.to_thread(self._server.store.call, call_id)
            client = stored.call.client if stored is not None else ""
        if client not in {session_name(holder), session_name(PUBLIC)} or not call_id.startswith("h-"):
            raise _unknown(call_id, holder)


def _unknown(call_id: str, holder: str) -> Problem:
    """Return what is said of a call that is not there, or not for who asks: the same, so that it tells nobody which."""
    said = f"There is no call {call_id!r:.80} of yours here."
    if holder == PUBLIC:
        said += " No token came with this request: a call that was made with one is seen with it alone."
    return Problem(404, "NotFound", said)


def _asked_by(scope: dict[str, Any]) -> str:
    """Return the method and the path of a request, as it was written, for people."""
    return f"{scope.get('method', 'GET')} {scope['raw_path'][:PATH_CHARACTERS].decode('ascii', 'replace')}"

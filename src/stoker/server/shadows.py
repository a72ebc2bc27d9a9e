"""Calls mirrored to a shadow: made a second time for their outcome alone, which is compared with the real one's.

A mirrored call is made once the real one is on its way, by a client of its own that nobody waits for. It is left out
where calls wait, and its workers give way to all others (`stoker.core.trials`). Streams are not mirrored, nor what is
too big to be held twice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stoker.core import events as e
from stoker.core.calls import Call, Delivery, Payload, Result, Segment
from stoker.core.comparison import JSON_BYTES_MAX, Answer, Comparison
from stoker.core.traffic import Turns
from stoker.core.trials import MIRRORED, MIRRORING, SHADOW
from stoker.errors import ProtocolError
from stoker.protocol import messages as m
from stoker.protocol.web_calls import decode_answer
from stoker.server.functions import Beside
from stoker.server.sessions import Session
from stoker.types import CallState, Outcome

if TYPE_CHECKING:
    from stoker.server.server import Server

OPEN_MAX = 32  # mirrored calls of an app at once
PATIENCE_SECONDS = 10.0  # for which one waits for a worker
NOT_BEGUN = frozenset({"Overloaded", "DeadlineExceeded", "NotFound", "StartupError"})  # of a mirrored call: left out


class ShadowSession(Session):
    """The client of mirrored calls: what they come to is looked at where it passes, and then let go."""

    def __init__(self, app: str, shadows: Shadows) -> None:
        super().__init__(f"{MIRRORING}{app}", holder=f"({MIRRORING}{app})")  # nobody can say that he is this one
        self._shadows = shadows

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self._shadows.discard([delivery.result.payload for delivery in deliveries])

    def deliver_items(self, call_id: str, attempt: int, first: int, items: Sequence[Payload]) -> None:
        self._shadows.discard(items)

    def send(self, message: Any, parts: Sequence[Any] = ()) -> None:
        if isinstance(message, m.RefusedCalls):
            for call_id in message.ids:
                self._shadows.refused(call_id)


@dataclass(slots=True)
class _Pair:
    app: str
    label: str
    current: Answer | None = None
    shadow: Answer | None = None


class Shadows:
    """See the module."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pairs: dict[str, _Pair] = {}  # by the real call's id
        self._comparisons: dict[str, tuple[int, Comparison]] = {}  # by app: of which version
        self._turns: dict[str, Turns] = {}  # by pool of the current version

    # Calls come

    def mirror(self, key: str, ids: Sequence[str], loads: Sequence[Payload], *, kind: str, method: str = "") -> None:
        """See to it that calls which were submitted just now are made by the shadow as well, if there is one."""
        functions = self._server.functions
        spec = functions.specs.get(key)
        beside = functions.beside.get(spec.app) if spec is not None and not spec.run_id else None
        if spec is None or beside is None or beside.rollout.kind != SHADOW:
            return
        other = functions.counterpart(key, beside)
        calls = self._server.plane.state.calls
        for call_id, load in zip(ids, loads, strict=True):
            call = calls.get(call_id)
            if call is None or not other or self._is_part_of_another(call):
                continue
            if not self._turns.setdefault(key, Turns()).take(beside.rollout.parts):
                continue
            why = self._why_not(call, load, kind=kind, app=spec.app)
            if why or isinstance(load, Segment):
                self._comparison(beside).shed[why] += 1
                continue
            self._pairs[call_id] = _Pair(spec.app, call.label)
            self._server.loop.call_soon(self._submit, call_id, other, bytes(load), method)

    def _is_part_of_another(self, call: Call) -> bool:
        """Tell whether it is made by a call of the same app: the shadow of that one makes its own."""
        parent = self._server.plane.state.calls.get(call.parent) if call.parent else None
        return parent is not None and parent.pool.spec.app == call.pool.spec.app

    def _why_not(self, call: Call, load: Payload, *, kind: str, app: str) -> str:
        if kind not in {"call", "map"}:
            return "streams"
        if isinstance(load, Segment):
            return "big inputs"
        open_ones = sum(1 for pair in self._pairs.values() if pair.app == app)
        if open_ones >= OPEN_MAX or call.pool.waiting_calls > max(1, call.pool.slots):
            self._drop_stale()
            return "load"
        return ""

    def _drop_stale(self) -> None:
        """Have mirrored calls go that have waited long for a worker."""
        if stale := self._stale():
            self._server.later(stale)

    def _stale(self) -> e.CancelAsked | None:
        server = self._server
        calls = [server.plane.state.calls.get(call_id + MIRRORED) for call_id in self._pairs]
        since = server.now() - PATIENCE_SECONDS
        stale = [x.id for x in calls if x is not None and x.state is CallState.QUEUED and x.created < since]
        return e.CancelAsked(stale, "it has waited for a worker for long") if stale else None

    def _submit(self, call_id: str, key: str, load: bytes, method: str) -> None:
        server = self._server
        pair = self._pairs.get(call_id)
        if pair is None:
            return
        name = f"{MIRRORING}{pair.app}"
        if name not in server.sessions:
            server.sessions[name] = ShadowSession(pair.app, self)
        server.decide(e.Submitted(name, key, [call_id + MIRRORED], [load], method=method))
        server.flush()

    # Calls end

    def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """Look at calls that have ended, real ones and mirrored ones."""
        for delivery in deliveries if self._pairs else ():
            real = delivery.id.removesuffix(MIRRORED)
            pair = self._pairs.get(real)
            if pair is None or delivery.call is None:
                continue
            is_real = delivery.id == real
            if delivery.result.outcome is Outcome.CANCELLED or self._never_ran(delivery, is_real=is_real):
                # It may have waited behind calls of its own, or for a worker that there was no room for.
                self._drop(real, "" if is_real else "load" if delivery.call.pool.workers else "no room")
                continue
            answer = _answer(delivery.result, self._server.now() - delivery.call.created)
            if answer is None:
                self._drop(real, "big results")
                continue
            pair.current, pair.shadow = (answer, pair.shadow) if is_real else (pair.current, answer)
            if pair.current is not None and pair.shadow is not None:
                del self._pairs[real]
                beside = self._server.functions.beside.get(pair.app)
                if beside is not None:
                    self._comparison(beside).add(real, pair.label, pair.current, pair.shadow)

    @staticmethod
    def _never_ran(delivery: Delivery, *, is_real: bool) -> bool:
        error = delivery.result.error
        return not is_real and error is not None and error.type_name in NOT_BEGUN

    def refused(self, call_id: str) -> None:
        """A mirrored call was not taken in."""
        self._drop(call_id.removesuffix(MIRRORED), "load")

    def _drop(self, real: str, why: str) -> None:
        pair = self._pairs.pop(real, None)
        beside = self._server.functions.beside.get(pair.app) if pair is not None else None
        if beside is not None and why:
            self._comparison(beside).shed[why] += 1
        self._server.later(e.CancelAsked([real + MIRRORED], "nothing is left to compare it with"))

    def discard(self, loads: Sequence[Payload]) -> None:
        self._server.discard(loads)

    # What came of it

    def _comparison(self, beside: Beside) -> Comparison:
        version, found = self._comparisons.get(beside.rollout.app, (0, None))
        if found is None or version != beside.version:
            found = Comparison(time.time())
            self._comparisons[beside.rollout.app] = (beside.version, found)
        return found

    def report(self, beside: Beside) -> dict[str, Any]:
        """Return what was found of a shadow since it, or this server, began."""
        if stale := self._stale():
            self._server.decide(stale)
            self._server.flush()
        return {
            **self._comparison(beside).report(),
            "open": sum(p.app == beside.rollout.app for p in self._pairs.values()),
        }

    def waiting(self, beside: Beside) -> str:
        """Return what mirrored calls wait for, in words, where there is no worker for them; else nothing."""
        pools = self._server.plane.state.pools
        found = [pools[spec.key] for spec in beside.deployment.functions if spec.key in pools]
        return next((pool.waiting for pool in found if len(pool.queue) and not pool.workers), "")

    def look(self) -> None:
        """Let go of what was mirrored to versions that are shadows no more."""
        shadows = {app for app, beside in self._server.functions.beside.items() if beside.rollout.kind == SHADOW}
        over = [real for real, pair in self._pairs.items() if pair.app not in shadows]
        for real in over:
            del self._pairs[real]
        self._server.decide(e.CancelAsked([real + MIRRORED for real in over], "its version is no shadow any more"))
        for app in self._comparisons.keys() - shadows:
            del self._comparisons[app]


def _answer(result: Result, seconds: float) -> Answer | None:
    """Return how a side has ended; None where it is too big to be looked at."""
    error = result.error
    if result.outcome is not Outcome.VALUE:
        said = error.type_name.rpartition(".")[2] if error is not None else result.outcome.name
        return Answer(said, True, seconds=seconds, error=error.message if error is not None and error.message else said)
    if isinstance(result.payload, Segment):
        return None
    try:
        web = decode_answer(result.payload)
    except ProtocolError:
        body, digest = _kept(result.payload)
        return Answer("value", False, body, digest, seconds=seconds)
    media_type = next((value for name, value in web.headers if name.lower() == "content-type"), "")
    body, digest = _kept(web.body)
    return Answer(str(web.status), web.status >= 500, body, digest, "json" in media_type, seconds)


def _kept(body: Any) -> tuple[bytes, str]:
    """Return a body and no digest; of a big one its digest alone."""
    return (bytes(body), "") if len(body) <= JSON_BYTES_MAX else (b"", hashlib.sha256(body).hexdigest())

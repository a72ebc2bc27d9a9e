"""Which version a call goes to, while one stands beside the current one of its app; see `stoker.core.traffic`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from stoker.core.calls import Payload
from stoker.core.traffic import Turns, takes
from stoker.core.trials import CANARY
from stoker.server.functions import Beside
from stoker.types import FunctionSpec

if TYPE_CHECKING:
    from stoker.server.server import Server
    from stoker.server.sessions import Session


class Traffic:
    """See the module. In this order: what the call asks for itself, what it is a part of, its key, its turn.

    A call that another one of the same app has made stays in that one's version, so that the functions of a version
    call each other, also when that is not the current one any more. What a worker holds of an earlier term stays that
    worker's.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def divided(
        self, key: str, ids: Sequence[str], loads: Sequence[Payload], *, parent: str
    ) -> Iterator[tuple[str, Sequence[str], Sequence[Payload]]]:
        """Yield calls of one function by the pools that they go to."""
        spec = self._server.functions.specs.get(key)
        beside = self._server.functions.beside.get(spec.app) if spec is not None and not spec.run_id else None
        if beside is None:
            yield self.goes_on(key) or key, ids, loads
            return
        groups: dict[str, tuple[list[str], list[Payload]]] = {}
        for call_id, load in zip(ids, loads, strict=True):
            chosen = groups.setdefault(self._pool_for(key, beside, call_id, parent), ([], []))
            chosen[0].append(call_id)
            chosen[1].append(load)
        for pool, (some, their) in groups.items():
            yield pool, some, their

    def is_own(self, key: str, session: Session, parent: str) -> bool:
        """Tell whether a call is made by a function of the very version that it is for."""
        by, spec = self.caller(session, parent), self._server.functions.known(key)
        if by is None or spec is None or not spec.version or by.run_id or spec.run_id:
            return False
        return (by.app, by.version) == (spec.app, spec.version)

    def caller(self, session: Session, parent: str = "") -> FunctionSpec | None:
        """Return the function in whose worker, or as a part of whose call, something is asked; None for programs."""
        state = self._server.plane.state
        worker = state.workers.get(session.owner) if session.owner else None
        if worker is not None:
            return worker.pool.spec
        call = state.calls.get(parent) if parent else None
        return call.pool.spec if call is not None else None

    def goes_on(self, key: str) -> str:
        """Return the pool of the version before, where that goes on until this one's is ready; else nothing."""
        pool = self._server.plane.state.pools.get(key)
        return pool.awaits if pool is not None else ""

    def _pool_for(self, key: str, beside: Beside, call_id: str, parent: str) -> str:
        state = self._server.plane.state
        if call_id in state.calls:
            return key  # sent again: it has its version
        other = self._server.functions.counterpart(key, beside)
        held = state.held.get(call_id)
        if held is not None and (worker := state.workers.get(held.worker)) is not None:
            return worker.pool.key
        if not other:
            return key
        by = state.calls.get(parent) if parent else None
        if by is not None and by.pool.spec.app == beside.rollout.app and not by.pool.spec.run_id:
            return other if by.pool.spec.version == beside.version else key
        return other if self._is_taken(key, beside) else key

    def pool_of_request(self, key: str, *, app: str, sticky: str = "", version: int = 0) -> str:
        """Return the pool for a request over HTTP. ``sticky``: those with the same go to the same version."""
        beside = self._server.functions.beside.get(app)
        other = self._server.functions.counterpart(key, beside) if beside is not None else ""
        if beside is None or not other or beside.rollout.kind != CANARY:
            return key
        if version:
            return other if version == beside.version else key
        if sticky:
            parts = beside.rollout.parts
            return other if takes(sticky, parts, among=f"{app}\0{beside.version}") else key
        return other if self._is_taken(key, beside) else key

    @staticmethod
    def _is_taken(key: str, beside: Beside) -> bool:
        if beside.rollout.kind != CANARY:
            return False
        return beside.turns.setdefault(key, Turns()).take(beside.rollout.parts)

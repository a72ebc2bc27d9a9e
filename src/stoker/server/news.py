"""News for people: output of user code and phases of pools, each to the sessions that care for it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from stoker.protocol import messages as m

if TYPE_CHECKING:
    from stoker.server.server import Server
    from stoker.server.sessions import Session

NESTING_MAX = 32  # calls that call: far deeper than anybody reads


class News:
    """See the module."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def phase(self, key: str, phase: str, detail: str) -> None:
        """Tell the clients that have calls in a pool what it is doing."""
        spec = self._server.functions.specs.get(key)
        if spec is None:
            return
        notice = m.Notice("phase", {"function": spec.label, "phase": phase, "detail": detail})
        for session in self._of_pool(key):
            session.send(notice)

    def lines(self, lines: m.LogLines) -> None:
        """Pass output on: what a call printed to who asked for the call, native output to all that use the pool."""
        spec = self._server.functions.specs.get(lines.function)
        label = (spec.label if spec else lines.function) + self._rank(lines.worker)
        methods = {one: self._method(one) for one in set(lines.calls)} if spec is not None and spec.methods else {}
        for session, picked in self._routes(lines).items():
            for method, some in groupby(picked, key=lambda i: methods.get(lines.calls[i], "")):
                shown = f"{label}.{method}" if method else label
                session.send(m.Notice("log", _notice_data(lines, shown, list(some))))

    def _method(self, call_id: str) -> str:
        """Return which method of a class a call is of; its last lines may come after its end."""
        call = self._server.plane.state.calls.get(call_id)
        if call is None and (record := self._server.records.get(call_id)) is not None:
            call = record.call
        return call.method if call is not None else ""

    def _rank(self, worker_id: str) -> str:
        """Return what tells the ranks of a gang apart where their lines stand side by side."""
        worker = self._server.plane.state.workers.get(worker_id)
        gang = worker.gang if worker is not None else None
        return f"[{gang.ranks[worker_id]}]" if gang is not None and worker_id in gang.ranks else ""

    def _routes(self, lines: m.LogLines) -> dict[Session, list[int]]:
        routes: dict[Session, list[int]] = {}
        whole: list[int] = []
        for i, call_id in enumerate(lines.calls):
            session = self.asker(call_id) if call_id else None
            if session is not None:
                routes.setdefault(session, []).append(i)
            elif not call_id:
                whole.append(i)
        if whole:
            for session in self._of_pool(lines.function):
                routes.setdefault(session, []).extend(whole)
        for session in self._server.sessions.values():
            for wanted in session.follows:
                picked = [i for i in range(len(lines.texts)) if self._follows(wanted, lines, i)]
                if picked:
                    routes[session] = sorted({*routes.get(session, ()), *picked})
        return routes

    def _follows(self, wanted: dict[str, str], lines: m.LogLines, i: int) -> bool:
        spec = self._server.functions.specs.get(lines.function)
        facts = {
            "call": lines.calls[i],
            "worker": lines.worker,
            "app": spec.app if spec else "",
            "function": spec.label if spec else lines.function,
        }
        return all(
            facts.get(key) == value or (key == "function" and spec and spec.name == value)
            for key, value in wanted.items()
        )

    def asker(self, call_id: str) -> Session | None:
        """Return the session at the root of a call: output of nested calls goes to the program that began it all."""
        session = self._server.sessions.get(call_id.rpartition(".")[0])
        for _ in range(NESTING_MAX):
            if session is None or not session.owner:
                return session
            session = self._server.sessions.get(session.parent.rpartition(".")[0])
        return None

    def _of_pool(self, key: str) -> set[Session]:
        pool = self._server.plane.state.pools.get(key)
        names = set(pool.clients) if pool else set()
        found = {self._server.sessions[name] for name in names if name in self._server.sessions}
        spec = self._server.functions.specs.get(key)
        if spec is not None and spec.run_id:
            found |= {s for s in self._server.sessions.values() if (spec.app, spec.run_id) in s.runs}
        return {self._root(session) for session in found}

    def _root(self, session: Session) -> Session:
        above = self.asker(session.parent) if session.owner else None
        return above or session


def _notice_data(lines: m.LogLines, label: str, picked: list[int]) -> dict[str, Any]:
    return {
        "function": label,
        "worker": lines.worker,
        "calls": [lines.calls[i] for i in picked],
        "streams": [lines.streams[i] for i in picked],
        "times": [lines.times[i] for i in picked],
        "texts": [lines.texts[i] for i in picked],
    }

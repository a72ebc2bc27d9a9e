"""What there is, as rows for people: functions, workers, calls, and why a call is waiting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from stoker.core import crash_loops, waiting
from stoker.core.calls import Call
from stoker.core.pools import Pool, Worker, WorkerState
from stoker.core.state import State
from stoker.errors import InvalidRequest, NotFound
from stoker.server.records import Record, row_of
from stoker.server.web_records import HTTP_SESSIONS, WebRecord, asked_by, is_refusal
from stoker.store.base import CallRecord
from stoker.types import CallState

if TYPE_CHECKING:
    from stoker.server.server import Server

Row = dict[str, Any]

LEAST_PREFIX_CHARS = 4  # of a call's id, to be taken for it: fewer may be a slip, and another call's tomorrow
LABELS_MAX = 200  # calls of older output that are looked up in the store for what they are of
REASONS_MAX = 100  # refused requests of a list that are looked up in the store for what was wrong with them
PREFIX_ROWS = 10_000  # of the store, the newest, that are looked through for it


def function_rows(server: Server, *, app: str) -> list[Row]:
    pools, now = server.plane.state.pools.values(), server.now()
    return [_function_row(pool, now) for pool in pools if not app or pool.spec.app == app]


def _function_row(pool: Pool, now: float) -> Row:
    spec = pool.spec
    return {
        "app": spec.app,
        "name": spec.name,
        "parameters": spec.parameters,
        "version": spec.version,
        "run_id": spec.run_id,
        "key": pool.key,
        "queued": len(pool.queue) + pool.backoff,
        "running": pool.running,
        "workers": len(pool.workers),
        "idle": sum(1 for worker in pool.workers.values() if worker.idle),
        "service_seconds": pool.seconds,
        "calls_done": pool.done,
        "failed": pool.failed,
        "waiting": pool.waiting if len(pool.queue) else "",
        "trouble": trouble(pool, now),
    }


def trouble(pool: Pool, now: float) -> str:
    """Return what is wrong with a pool's workers, in a sentence; empty if nothing is."""
    told = crash_loops.told(pool, now)
    ill = [worker for worker in pool.workers.values() if worker.failed_checks]
    if not told and ill:
        return f"{len(ill)} of its {len(pool.workers)} workers failed the last check: {ill[0].ill}"
    return told


def lost_by_a_stop(state: State) -> dict[str, int]:
    """Return how many of the running calls would not start again after a stop: they may not run twice, or their
    clients, who wait over HTTP, ask no more."""
    once = over_http = 0
    for pool in state.pools.values():
        gangs = [gang.call for gang in pool.gangs.values() if gang.call is not None]
        for call in gangs or [call for worker in pool.workers.values() for call in worker.leased.values()]:
            if not call.detached and call.client.startswith(HTTP_SESSIONS):
                over_http += 1
            elif not pool.options.lost_retries:
                once += 1
    return {"running_once": once, "running_http": over_http}


def worker_rows(server: Server) -> list[Row]:
    return [_worker_row(server, worker) for worker in server.plane.state.workers.values()]


def _worker_row(server: Server, worker: Worker) -> Row:
    pid, how, began = server.pids.get(worker.id, (0, "", 0.0))
    cpu_seconds, memory = server.usage.get(worker.id, (0.0, 0))
    return {
        "id": worker.id,
        "function": worker.pool.spec.label,
        "state": _worker_state(worker),
        "pid": pid,
        "node": worker.node,
        "host": server.hosts.of_node(worker.node),
        "cpus": worker.capacity.cpus,
        "memory_limit": worker.capacity.memory,
        "memory": memory,
        "cpu_seconds": cpu_seconds,
        "calls_done": worker.done,
        "running": [call.id for call in worker.running],
        "why": worker.ill or worker.stop_reason or worker.outgoing,
        "started": began or worker.ordered + server.wall_offset,
        "how": how,
    }


def _worker_state(worker: Worker) -> str:
    if worker.failed_checks:
        return "unhealthy"
    if worker.outgoing and worker.state is WorkerState.READY:
        return "outgoing"  # until there is another one in its place
    if worker.state is WorkerState.READY:
        return "idle" if worker.idle else "busy"
    return worker.phase if worker.state is WorkerState.STARTING else worker.state.value


async def call_rows(server: Server, *, app: str, function: str, state: str, limit: int) -> list[Row]:
    """Return calls, the newest first: those that are open, the latest settled ones, and detached ones of the store."""
    if state == CallState.REFUSED.value:
        raise InvalidRequest(
            "Refused calls are not kept: nothing became of them. `stoker_calls_refused_total` at /metrics counts them, "
            "by function and reason."
        )
    if state and state not in {s.value for s in CallState}:
        raise InvalidRequest(f"There is no state {state!r}. States are: {', '.join(s.value for s in CallState)}.")
    wall = server.wall_offset
    rows: dict[str, Row] = {}
    for call in list(server.plane.state.calls.values())[-limit * 10 :]:
        rows[call.id] = row_of(call, wall=wall)
    for record in server.records.newest():
        rows.setdefault(record.call.id, row_of(record.call, wall=wall, record=record))
    wanted = CallState(state) if state else None
    for row in await asyncio.to_thread(_stored_rows, server, wanted, limit):
        rows.setdefault(row["id"], row)["http"] = row["http"]
    chosen = [row for row in rows.values() if _matches(row, app=app, function=function, state=state)]
    newest = sorted(chosen, key=lambda row: row["created"], reverse=True)[:limit]
    told = [{**row, "http": row["http"] or _web_row(server, row["id"], detached=row["detached"])} for row in newest]
    refused = [row for row in told if row["detached"] and row["http"] and _lacks_reason(row["http"])][:REASONS_MAX]
    if refused:
        await asyncio.to_thread(_add_reasons, server, refused)
    return told


def _web_row(server: Server, call_id: str, *, detached: bool) -> Row | None:
    """Return what is known here of a call that came over HTTP; None of others, and of what only the store knows."""
    call = server.plane.state.calls.get(call_id)
    if call is not None:
        found = asked_by(call, server.files)
    else:
        found = None if detached else server.web_records.get(call_id)
    return found.row() if found is not None else None


def _stored_rows(server: Server, state: CallState | None, limit: int) -> list[Row]:
    return [_stored_row(server, record) for record in server.store.calls(state=state, limit=limit)]


def _lacks_reason(http: Row) -> bool:
    return is_refusal(http["status"] or 0) and not http["reason"]


def _add_reasons(server: Server, rows: list[Row]) -> None:
    """Add what was wrong with requests: that is in their answers, which a store's lists leave out."""
    for row in rows:
        record = server.store.call(row["id"])
        if record is not None and record.settled is not None:
            web = WebRecord.read(record.call.request, record.settled.status, record.settled.payload)
            row["http"] = web.row() if web is not None else row["http"]


def _matches(row: Row, *, app: str, function: str, state: str) -> bool:
    owner = row["app"]
    if app and owner != app:
        return False
    # A class is asked for by its own name, or by that of one of its methods.
    name, asked = row["function"].removeprefix(f"{owner}."), function.removeprefix(f"{owner}.")
    if function and not f"{name}.".startswith(f"{asked}."):
        return False
    return not state or row["state"] == state


def _stored_row(server: Server, record: CallRecord) -> Row:
    call, settled = record.call, record.settled
    spec = server.functions.specs.get(call.function) or server.store.function(call.function)
    error = settled.error if settled else None
    started = max((at for at, event, _ in _stored_timeline(record) if event == "running"), default=None)
    label = spec.label if spec else call.function
    web = WebRecord.read(call.request, settled.status, settled.payload) if settled else WebRecord.read(call.request)
    return {
        "id": call.id,
        "app": spec.app if spec else "",
        "function": f"{label}.{call.method}" if call.method else label,
        "state": settled.state.value if settled else CallState.QUEUED.value,
        "created": call.created,
        "started": started,
        "seconds": settled.finished - started if settled and started is not None else None,
        "attempts": settled.attempts if settled else record.failures + record.losses,
        "worker": "",
        "error": error.said if error else "",
        "detached": True,
        "trace": call.trace,
        "version": spec.version if spec else 0,
        "shadow": False,
        "http": web.row() if web is not None else None,
    }


async def call_labels(server: Server, call_ids: Collection[str]) -> dict[str, str]:
    """Return what these calls are of, with the method of a class; of those that are known no more, nothing."""
    calls = server.plane.state.calls
    found = {call_id: calls[call_id].label for call_id in call_ids if call_id in calls}
    found |= {one.call.id: one.call.label for one in server.records.newest() if one.call.id in call_ids}
    left = [call_id for call_id in call_ids if call_id not in found][:LABELS_MAX]

    def stored() -> dict[str, str]:
        records = [record for call_id in left if (record := server.store.call(call_id)) is not None]
        return {record.call.id: _stored_row(server, record)["function"] for record in records}

    return found | (await asyncio.to_thread(stored) if left else {})


async def full_id(server: Server, given: str, *, of_requests: bool = False) -> str:
    """Return the id of the one call whose id begins so; what is a whole id, or no call's, as it is.

    ``of_requests``: or the call that the HTTP request with this id was, while that is remembered.

    Raises:
        InvalidRequest: several do, and some are listed; or it is too short to be taken for the one that does.
    """
    calls = server.plane.state.calls
    if given in calls or not given:
        return given
    found = {call_id for call_id in list(calls) if call_id.startswith(given)}
    found |= {record.call.id for record in server.records.newest() if record.call.id.startswith(given)}
    rows = await asyncio.to_thread(server.store.calls, limit=PREFIX_ROWS)
    found |= {row.call.id for row in rows if row.call.id.startswith(given)}
    if given in found or not found:
        return (server.web_records.call_of(given) if of_requests and not found else "") or given
    if len(found) > 1:
        listed = ", ".join(sorted(found)[:5]) + (", …" if len(found) > 5 else "")
        raise InvalidRequest(f"{len(found)} calls have ids that begin with {given!r}: {listed}. Write more of it.")
    if len(given) < LEAST_PREFIX_CHARS:
        raise InvalidRequest(
            f"There is no call {given}, and one whose id begins so: {found.pop()}. Write at least "
            f"{LEAST_PREFIX_CHARS} characters of it."
        )
    return found.pop()


async def call_details(server: Server, call_id: str) -> Row:
    """Return all that is known of one call, with its timeline and why it waits.

    Raises:
        NotFound: it never was, or it was attached and has been forgotten.
    """
    wall = server.wall_offset
    call = server.plane.state.calls.get(call_id)
    if call is not None:
        return {
            **row_of(call, wall=wall),
            **_story(server, call, now=server.now()),
            "http": _web_row(server, call_id, detached=True),
        }
    record = server.records.get(call_id)
    if record is not None and not record.call.detached:
        return _ended_row(server, record, http=_web_row(server, call_id, detached=False))
    stored = await asyncio.to_thread(server.store.call, call_id)
    if record is not None:
        return _ended_row(server, record, http=_stored_row(server, stored)["http"] if stored is not None else None)
    if stored is None:
        raise NotFound(
            f"There is no call {call_id}. Of attached calls (remote, map, HTTP) the latest are remembered, until the "
            "server is started again; spawned ones for as long as results are kept. `stoker calls list` shows what is "
            "known."
        )
    settled = stored.settled
    entries = [_entry(server, at, event, detail) for at, event, detail in _stored_timeline(stored)]
    if settled:
        entries.append(_entry(server, settled.finished, settled.state.value, ""))
    return {**_stored_row(server, stored), "timeline": entries, "why": "", "tags": stored.call.tags}


def _ended_row(server: Server, record: Record, *, http: Row | None) -> Row:
    wall = server.wall_offset
    story = _story(server, record.call, now=record.finished)
    ended = _entry(server, record.finished + wall, record.call.state.value, "")
    told = {**story, "timeline": [*story["timeline"], ended], "why": ""}
    return {**row_of(record.call, wall=wall, record=record), **told, "http": http}


def _story(server: Server, call: Call, *, now: float) -> Row:
    wall = server.wall_offset
    entries = [_entry(server, at + wall, event, detail) for at, event, detail in call.timeline(now)]
    story = {"timeline": entries, "why": why_waiting(server, call), "tags": call.pool.options.tags}
    gang = call.worker.gang if call.state is CallState.LEASED and call.worker is not None else None
    return story if gang is None else {**story, "addresses": gang.addresses}


def _entry(server: Server, at: float, event: str, detail: str) -> Row:
    worker = detail if event == "running" else ""
    host = server.hosts.of_worker(worker)
    return {"at": at, "event": event, "detail": "" if worker else detail, "worker": worker, "host": host}


def _stored_timeline(record: CallRecord) -> list[tuple[float, str, str]]:
    found: list[tuple[float, str, str]] = []
    if record.settled and record.settled.timeline:
        found = json.loads(record.settled.timeline)
    return found


def public_why(server: Server, call: Call) -> str:
    """Return why a call is not running, for whoever has made it over HTTP: without what a failed start has said."""
    if call.state is CallState.QUEUED and call.pool.refusal:
        return "it waits for a worker to start"
    return why_waiting(server, call)


def why_waiting(server: Server, call: Call) -> str:
    """Return why a call is not running, in a sentence; empty if it is, or has ended."""
    pool = call.pool
    if call.state is CallState.BACKOFF:
        return f"it failed and is tried again in {max(0.0, call.not_before - server.now()):.1f} s"
    if call.state is CallState.ACCEPTING:
        return "it is being written to the store"
    if call.state is not CallState.QUEUED:
        return ""
    if server.plane.state.recovering_until is not None:
        return "the server was restarted and waits to hear what still runs"
    if any(worker.state is WorkerState.STARTING for worker in pool.workers.values()):
        return f"it waits {waiting.reason(pool, server.now())}"
    if pool.waiting:
        return f"it waits {pool.waiting}"
    ahead = len(pool.queue) - 1
    return f"{ahead} other call(s) of {pool.spec.label} wait with it, all its {len(pool.workers)} worker(s) are busy"

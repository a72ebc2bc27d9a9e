"""Requests: everything that clients and the CLI ask for beside calls. One method a verb; see `Verbs.answer`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from stoker._version import __version__
from stoker.blobs.location import shown_address
from stoker.core.rate_limits import Rate
from stoker.errors import InvalidRequest, PermissionDenied, StokerError
from stoker.protocol import messages as m
from stoker.server import once, token_limits
from stoker.server.client_tokens import shown
from stoker.server.deployments import DeploymentVerbs
from stoker.server.execution import error_info
from stoker.server.inspection import (
    call_details,
    call_labels,
    call_rows,
    full_id,
    function_rows,
    lost_by_a_stop,
    worker_rows,
)
from stoker.server.link import Link
from stoker.server.request_parameters import Params, get
from stoker.server.reserved_names import check_names
from stoker.server.sessions import Session
from stoker.server.spool import Spool
from stoker.types import FunctionSpec

if TYPE_CHECKING:
    from stoker.server.server import Server

DEAF_SECONDS = 0.5  # past the grace, for what does not listen to be killed
CLEAN_UP_POLL_SECONDS = 0.01
T = TypeVar("T")
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]  # of rows or lines: what one reply may hold
Answer = Callable[[Session, Params], Awaitable[Any]]

WORKERS_MAY = frozenset({"lookup", "register", "blobs_missing", "call", "cancel", "logs", "flush", "end_run"})
"""What the client inside a worker may ask for: enough to call, and nothing that changes others."""

HERE_ONLY = frozenset({"shutdown", "tokens", "token_create", "token_revoke", "callback_secret"})
"""What nobody may ask for over TCP: a token that leaked makes no others, and ends nothing."""


class Verbs(DeploymentVerbs):
    """See the module. Parameters of another type than a verb wants are an `InvalidRequest`."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._verbs: dict[str, Answer] = {
            name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")
        }

    async def answer(self, session: Session, request: m.Request) -> Any:
        """Answer one request.

        Raises:
            StokerError: whatever the verb says; unknown verbs and parameters are `InvalidRequest`.
        """
        verb, params = request.verb, request.params
        handler = self._verbs.get(verb)
        if handler is None:
            raise InvalidRequest(f"This server knows no request {verb!r}. Is it older than the client?")
        if session.holder and verb in HERE_ONLY:
            raise PermissionDenied(f"{verb!r} is for the server's own machine only: a token does not allow it.")
        if session.owner and verb not in WORKERS_MAY:
            raise PermissionDenied(f"A worker's token does not allow {verb!r}.")
        if (token := token_limits.token_of(self._server, session)) is not None:
            token_limits.check_verb(token, verb)
        if verb in once.VERBS:
            named = {**params, "request": once.name_of(session, request)}
            return await once.answer(session, request, lambda: handler(session, named))
        return await handler(session, params)

    async def put_blob(self, link: Link, message: m.PutBlob, body: bytes | Spool) -> None:
        """Keep a blob under its digest, which is checked."""
        reply = m.Reply(message.id)
        try:
            await asyncio.to_thread(self._keep_blob, message.digest, body)
        except StokerError as error:
            reply = m.Reply(message.id, error=error_info(error))
        finally:
            if isinstance(body, Spool):
                body.close()
        link.send(reply)
        self._server.flush()

    def _keep_blob(self, digest: str, body: bytes | Spool) -> None:
        if isinstance(body, Spool) and body.failure is not None:
            raise body.failure
        hashed = hashlib.sha256()
        for piece in _pieces(body):
            hashed.update(piece)
        found = hashed.hexdigest()
        if found != digest:
            raise InvalidRequest(f"A blob announced as {digest} has the digest {found}: it was damaged on its way.")
        self._server.blobs.put(f"bundle/{digest}", _pieces(body))

    # Apps and functions

    async def do_blobs_missing(self, session: Session, params: Params) -> list[str]:
        digests = get(params, "digests", list[str])
        blobs = self._server.blobs
        return await asyncio.to_thread(lambda: [one for one in digests if not blobs.has(f"bundle/{one}")])

    async def do_register(self, session: Session, params: Params) -> Params:
        app, run_id = get(params, "app", str), get(params, "run_id", str)
        specs = get(params, "functions", list[FunctionSpec])
        served = get(params, "served", bool, False) and not session.owner
        self._check_schedulable(specs)
        if served:
            check_names(app, specs)
        if not run_id or (app, run_id) not in self._server.functions.runs:
            session.runs.add((app, run_id))  # the run ends with its program; others who call it only add to it
        return {"keys": self._server.functions.register(specs, app=app, run_id=run_id, served=served)}

    async def do_end_run(self, session: Session, params: Params) -> None:
        app, run_id = get(params, "app", str), get(params, "run_id", str)
        if (app, run_id) in session.runs:
            session.runs.discard((app, run_id))
            self._server.functions.retire_run(app, run_id)

    async def do_lookup(self, session: Session, params: Params) -> Params:
        app, version = get(params, "app", str), get(params, "version", int, 0)
        name, run_id = get(params, "name", str), get(params, "run_id", str, "")
        if (token := token_limits.token_of(self._server, session)) is not None:
            token.check_call(self._server.functions.app_of(app), name)
        store, functions = self._server.store, self._server.functions
        by = self._server.traffic.caller(session) if session.owner and not (version or run_id) else None
        if by is not None and by.version and (by.app, by.run_id) == (app, ""):
            own = functions.in_version(app, by.version, name)  # the functions of a version call each other
            if own is not None:
                return {"key": own.key, "spec": own}
        history = await asyncio.to_thread(lambda: store.deployments(app=app)) if version else []
        spec = functions.lookup(app, name, run_id, version=version, history=history)
        return {"key": spec.key, "spec": spec}

    # What there is

    async def do_version(self, session: Session, params: Params) -> Params:
        """Answer what anybody may know who was let in: that the server is there."""
        return {"version": __version__}

    async def do_status(self, session: Session, params: Params) -> Params:
        server, state = self._server, self._server.plane.state
        return {
            "version": __version__,
            "mode": server.config.mode,
            "pid": os.getpid(),
            "term": server.epoch,
            "uptime": time.time() - server.started,
            "socket": str(server.config.socket),
            "doors": self._doors(),
            "no_http": server.no_http if server.http is None else "",
            "state_dir": str(server.config.state_dir),
            # It names files of this machine: only who starts servers here is told.
            "started_with": {} if session.holder or session.owner else server.config.started_with,
            "engine": server.engine.name,
            "ray_address": server.config.ray_address if server.engine.name == "ray" else "",
            "engine_place": server.engine.place,
            "fingerprint": server.door.fingerprint if server.door is not None else "",
            "store": server.config.store_shown,
            "blobs": shown_address(server.config.blobs) if server.config.blobs else "",
            "growth": state.growth,
            "nodes": [
                {
                    "id": node.id,
                    "host": server.hosts.of_node(node.id),
                    "address": node.address,
                    "state": "drains" if node.draining else "up",
                    "cpus": node.total.cpus,
                    "cpus_free": max(0.0, node.free().cpus),
                    "memory": node.total.memory,
                    "memory_free": node.free().memory,
                    "workers": len(node.held),
                }
                for node in state.nodes.values()
            ],
            "outages": [asdict(outage) for outage in server.engine.outages()],
            "calls": {
                "queued": sum(len(pool.queue) + pool.backoff for pool in state.pools.values()),
                "running": sum(pool.running for pool in state.pools.values()),
                **lost_by_a_stop(state),
            },
            "workers": len(state.workers),
            "apps": len(server.functions.current) + len(server.functions.runs),
        }

    def _doors(self) -> list[Params]:
        server = self._server
        doors: list[Params] = [{"kind": "unix", "address": str(server.config.socket)}]
        return doors + [door.facts() for door in (server.door, server.http) if door is not None]

    async def do_functions(self, session: Session, params: Params) -> list[Params]:
        return function_rows(self._server, app=get(params, "app", str, ""))

    async def do_workers(self, session: Session, params: Params) -> list[Params]:
        return worker_rows(self._server)

    async def do_calls(self, session: Session, params: Params) -> list[Params]:
        return await call_rows(
            self._server,
            app=get(params, "app", str, ""),
            function=get(params, "function", str, ""),
            state=get(params, "state", str, ""),
            limit=get(params, "limit", Count, 100),
        )

    async def do_call(self, session: Session, params: Params) -> Params:
        given = get(params, "id", str)
        call_id = await token_limits.call_id_of(self._server, session, given, of_requests=True)
        await token_limits.check_call_id(self._server, session, call_id, given=given)
        callback = await self._server.callbacks.of_call(call_id)
        row = {**await call_details(self._server, call_id), "request_id": self._server.web_records.request_of(call_id)}
        return {**row, **({"callback": callback} if callback is not None else {})}

    async def do_cancel(self, session: Session, params: Params) -> Params:
        ids = get(params, "ids", list[str])
        if get(params, "prefixes", bool, False):
            ids = [await token_limits.call_id_of(self._server, session, given) for given in ids]
        force = get(params, "force", bool, False)
        known, later = token_limits.cancel(self._server, session, ids, reason="user", force=force)
        self._server.flush()
        await self._server.early_cancels.wait()
        await self._in_writer(lambda: None)  # what ended by it is written down before anybody is told
        return {"cancelled": known + later.found}

    # Output, images, life

    async def do_logs(self, session: Session, params: Params) -> Params:
        wanted = {key: get(params, key, str) for key in ("call", "app", "function", "worker") if params.get(key)}
        if "call" in wanted:
            wanted["call"] = await full_id(self._server, wanted["call"], of_requests=True)
        times = {key: get(params, key, float) for key in ("since", "until") if params.get(key)}
        tail = get(params, "tail", Count, 1000)
        query: Params = {**wanted, **times, "tail": tail, "functions": self._keys_of(wanted)}
        lines = await self._server.engine.ask("logs", query)
        specs = self._server.functions.specs
        classes = {key for key, spec in specs.items() if spec.methods}
        calls = await call_labels(self._server, {x["call"] for x in lines if x["call"] and x["function"] in classes})
        labels = {key: spec.label for key, spec in specs.items()}
        # Of a program that is gone the server knows no function any more: the log itself says whose it is.
        return {
            "lines": [
                {**x, "function": calls.get(x["call"]) or labels.get(x["function"]) or x.get("label") or x["function"]}
                for x in lines
            ]
        }

    def _keys_of(self, wanted: dict[str, str]) -> list[str]:
        app, name = wanted.get("app", ""), wanted.get("function", "")
        if not app and not name:
            return []
        specs = self._server.functions.specs.items()
        return [
            key for key, spec in specs if (not app or spec.app == app) and (not name or name in {spec.name, spec.label})
        ]

    async def do_follow(self, session: Session, params: Params) -> None:
        wanted = {key: get(params, key, str) for key in ("call", "app", "function", "worker") if params.get(key)}
        if "call" in wanted:
            wanted["call"] = await full_id(self._server, wanted["call"], of_requests=True)
        session.follows.append(wanted)

    async def do_flush(self, session: Session, params: Params) -> None:
        """Have all output so far delivered; with ``ended``, that of cancelled calls that still clean up as well."""
        if get(params, "ended", bool, False):
            until = self._server.now() + self._server.plane.state.limits.cancel_grace + DEAF_SECONDS
            while self._cleans_up(session) and self._server.now() < until:
                await asyncio.sleep(CLEAN_UP_POLL_SECONDS)
        await self._server.engine.flush_logs()

    def _cleans_up(self, session: Session) -> bool:
        """Tell whether a worker still runs what was cancelled of this client's calls, or of those that they made."""
        return any(
            call.state.settled and self._server.news.asker(call.id) is session
            for worker in self._server.plane.state.workers.values()
            for call in worker.running
        )

    async def do_images(self, session: Session, params: Params) -> Any:
        return self._with_hosts(await self._server.engine.ask("images", params))

    def _with_hosts(self, rows: list[Params]) -> list[Params]:
        """Add what people call each row's node."""
        hosts = self._server.hosts
        return [{**row, "host": hosts.of_node(row["node"])} if row.get("node") else row for row in rows]

    async def do_image_lock(self, session: Session, params: Params) -> Any:
        return {"lock": await self._server.engine.ask("image_lock", params)}

    async def do_image_prune(self, session: Session, params: Params) -> Any:
        removed = await self._server.engine.ask("image_prune", params)
        if params.get("locks") and not params.get("dry_run"):
            left = {row["recipe"] for row in await self._server.engine.ask("images")}
            await self._server.locks.forget({row["recipe"] for row in removed} - left)
        return self._with_hosts(removed)

    async def do_inventory(self, session: Session, params: Params) -> Any:
        return await self._server.engine.ask("inventory", params)

    async def do_tokens(self, session: Session, params: Params) -> list[Params]:
        holders = [link.holder for link in self._server.links]
        return [{**row, "connections": holders.count(row["id"])} for row in self._server.client_tokens.rows()]

    async def do_token_create(self, session: Session, params: Params) -> Params:
        app, function = get(params, "app", str, ""), get(params, "function", str, "")
        rate, expires = get(params, "rate", str, ""), get(params, "expires", float | None, None)
        token, text = self._server.client_tokens.create(
            get(params, "name", str),
            app=app,
            function=function,
            python=get(params, "python", bool, False),
            rate=Rate.parse(rate, burst=get(params, "burst", int | None, None)) if rate else None,
            expires_in=expires,
        )
        note = self._server.functions.missing(app, function) if app else ""
        return {**shown(token), "token": text, "note": note}

    async def do_token_revoke(self, session: Session, params: Params) -> None:
        token_limits.revoke(self._server, get(params, "name", str))

    async def do_callbacks(self, session: Session, params: Params) -> list[Params]:
        limit = get(params, "limit", Count, 100)
        return await self._server.callbacks.rows(open_only=get(params, "open", bool, False), limit=limit)

    async def do_callback_retry(self, session: Session, params: Params) -> None:
        await self._server.callbacks.retry(await full_id(self._server, get(params, "id", str)))

    async def do_callback_secret(self, session: Session, params: Params) -> Params:
        token = self._server.client_tokens.named(get(params, "token", str))
        return {"token": token.name, "secret": self._server.callbacks.signer.secret(token.id)}

    async def do_leave(self, session: Session, params: Params) -> None:
        """End a session whose program ends, once that is answered: over TCP its process cannot be seen to end."""
        self._server.loop.call_soon(self._server.client_ended, session.name)

    async def do_shutdown(self, session: Session, params: Params) -> None:
        self._server.stopping.set()


def _pieces(body: bytes | Spool) -> Iterable[bytes]:
    return body.read() if isinstance(body, Spool) else [body]

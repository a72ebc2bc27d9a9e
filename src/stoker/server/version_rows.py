"""Versions of apps as rows for people: which one answers, what stands beside it, what each has run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stoker.core.pools import Pool
from stoker.core.traffic import PARTS
from stoker.core.trials import CANARY
from stoker.server.functions import ACTIVE, FAILED, RECREATE, STRATEGY, Beside
from stoker.server.inspection import trouble
from stoker.store.base import Deployment, Rollout
from stoker.types import FunctionSpec

if TYPE_CHECKING:
    from stoker.server.server import Server

Row = dict[str, Any]

FAILED_STARTS = 2  # in a row: the first may be a coincidence
PROMOTED, ABORTED, REPLACED, UNREADY = "promoted", "aborted", "replaced", "never ready"
STILL = "it is still starting"
NOT_READY = "not ready"
STARTING = "starting"  # the state of a version that is waited for, and did not fail to start
REQUEST = "request"  # the tag of a deployment that says which request has made it
BY = "by"  # who
SAME_AS = "same_as"  # of one made by a rollback: which version it is the same as
OWN_TAGS = frozenset({REQUEST, BY, STRATEGY, SAME_AS})
STRATEGIES = ("rolling", RECREATE)


def same_as(made: Deployment) -> int:
    """Return which version one that a rollback has made is the same as; 0 of others.

    A user's tag could have this name before rollbacks set it.
    """
    text = made.tags.get(SAME_AS, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def pools_of(server: Server, app: str, version: int) -> list[Pool]:
    """Return the pools of a version, those of a class's instances and of other options among them."""
    pools = server.plane.state.pools.values()
    return [x for x in pools if x.spec.app == app and not x.spec.run_id and x.spec.version == version]


def _is_unready(pool: Pool) -> bool:
    """Tell whether a worker of it has yet to be ready, although one was, or is, to be."""
    return bool(pool.awaits) or does_not_start(pool)


def does_not_start(pool: Pool) -> bool:
    """Tell whether no worker of it has ever been ready, though several were to be."""
    return pool.bad_starts >= FAILED_STARTS and not pool.was_ready


def troubles(server: Server, pools: Sequence[Pool]) -> dict[str, str]:
    """Return what is wrong with pools, by function."""
    return {x.spec.name: told for x in pools if (told := trouble(x, server.now()))}


def in_a_line(found: Mapping[str, str]) -> str:
    """Return what is wrong, by function, as one text."""
    return "; ".join(f"{name}: {told}" for name, told in sorted(found.items()))


def why_unready(server: Server, made: Deployment) -> dict[str, str]:
    """Return why a version was never ready, by function; nothing where it was, or where nobody knows.

    It was where any of its functions was, and a class with any of its parameters: others may be at fault by themselves.
    One that has taken over untried was not until a worker of it is. Nobody knows of a version from before this server
    has started, unless it still waits to take over.
    """
    pools = pools_of(server, made.app, made.version)
    done, _ = server.plane.state.ran.get((made.app, made.version), (0, 0))
    if done or any(pool.was_ready for pool in pools):
        return {}
    is_known = made.created >= server.started
    found = [pool for pool in pools if pool.awaits or pool.untried or (is_known and _is_unready(pool))]
    never = "it took over untried, and no worker of it was ever ready"
    return {x.spec.name: trouble(x, server.now()) or (never if x.untried else STILL) for x in found}


async def history(server: Server, app: str) -> list[Row]:
    """Return the versions of an app that are kept."""
    versions = await asyncio.to_thread(lambda: server.store.deployments(app=app))
    rollouts = {one.version: one for one in await asyncio.to_thread(lambda: server.store.rollouts(app=app))}
    current = max((made.version for made in versions if made.current), default=0)
    for version, rollout in rollouts.items():
        if rollout.state == ACTIVE and version <= current:  # the server ended before it could write that down
            rollouts[version] = replace(rollout, state=REPLACED, why="a newer version took over")
    return [_history_row(server, made, rollouts.get(made.version)) for made in versions]


def _history_row(server: Server, made: Deployment, rollout: Rollout | None) -> Row:
    pools = pools_of(server, made.app, made.version)
    done, failed = server.plane.state.ran.get((made.app, made.version), (0, 0))
    names = sorted(spec.name for spec in made.functions)
    state, answers = _standing(made, rollout, names, pools)
    beside = server.functions.beside.get(made.app)
    is_canary = beside is not None and beside.rollout.kind == CANARY
    share = percent(PARTS - beside.rollout.parts) if beside is not None and is_canary else 100.0
    if rollout is not None and rollout.state == ACTIVE and not made.current:
        share, answers = percent(rollout.parts), names
    return {
        "version": made.version,
        "created": made.created,
        "by": made.tags.get(BY, ""),
        "current": made.current,
        "state": state,
        "percent": share if answers else 0.0,
        "answers": answers,
        "why": _why(server, made, rollout, pools),
        "strategy": made.tags.get(STRATEGY, STRATEGIES[0]),
        "same_as": same_as(made),
        "tags": {name: text for name, text in made.tags.items() if name not in OWN_TAGS},
        "functions": names,
        "workers": sum(len(pool.workers) for pool in pools),
        "done": done + sum(pool.done for pool in pools),
        "failed": failed + sum(pool.failed for pool in pools),
    }


def _standing(
    made: Deployment, rollout: Rollout | None, names: Sequence[str], pools: Sequence[Pool]
) -> tuple[str, list[str]]:
    """Return what a version is now, in a word, and which of its functions answer calls by name."""
    goes_on = sorted({pool.spec.name for pool in pools if pool.goes_on_for})
    if goes_on and not made.current:
        return "answers", goes_on
    if not made.current:
        return ("" if rollout is None or rollout.state == PROMOTED else _state(rollout)), []
    waits = [pool for pool in pools if pool.awaits]
    answers = sorted({*names} - {pool.spec.name for pool in waits})
    if not waits and any(map(does_not_start, pools)):
        return NOT_READY, answers
    return _readiness(waits) if waits else "current", answers


def _why(server: Server, made: Deployment, rollout: Rollout | None, pools: Sequence[Pool]) -> str:
    """Return what is wrong with the current version, or one that goes on; of others why they ended."""
    if made.current or any(pool.goes_on_for for pool in pools):
        return in_a_line(troubles(server, pools))
    return rollout.why if rollout is not None else ""


def _readiness(waits: Sequence[Pool]) -> str:
    return NOT_READY if any(pool.bad_starts >= FAILED_STARTS for pool in waits) else STARTING


def gone(before: Sequence[FunctionSpec], after: Sequence[FunctionSpec]) -> list[str]:
    """Return the functions that a version has no more, and the methods of classes that it still has."""
    methods = {spec.name: {*spec.methods} for spec in after}
    found = {spec.name for spec in before} - methods.keys()
    for spec in before:
        found |= {f"{spec.name}.{name}" for name in {*spec.methods} - methods.get(spec.name, {*spec.methods})}
    return sorted(found)


def _state(rollout: Rollout) -> str:
    return rollout.kind if rollout.state == ACTIVE else rollout.state


def apps(server: Server) -> list[Row]:
    """Return what is deployed, and what programs run just now."""
    functions, waits = server.functions, _waiting(server)
    rows = [
        {
            **_app_row(server, d.app, keys=_keys(server, d, waits), version=d.version, created=d.created),
            "beside": beside_row(functions.beside[d.app]) if d.app in functions.beside else None,
            "stopped": _stopped_row(server, d),
            "awaits": _awaits_row(server, waits.get((d.app, d.version), ())),
        }
        for d in functions.current.values()
    ]
    return rows + [
        _app_row(server, app, run_id, keys=list(keys.values())) for (app, run_id), keys in functions.runs.items()
    ]


def _waiting(server: Server) -> dict[tuple[str, int], list[Pool]]:
    """Return the pools that wait to take over, by app and version; in one go for all apps."""
    found: dict[tuple[str, int], list[Pool]] = {}
    for pool in server.plane.state.pools.values():
        if pool.awaits and not pool.spec.run_id:
            found.setdefault((pool.spec.app, pool.spec.version), []).append(pool)
    return found


def _keys(server: Server, current: Deployment, waits: Mapping[tuple[str, int], Sequence[Pool]]) -> list[str]:
    """Return the pools of what is deployed: of the current version, beside it, and before it until that is ready."""
    beside = server.functions.beside.get(current.app)
    specs = [*current.functions, *(beside.deployment.functions if beside is not None else ())]
    before = [pool.awaits for pool in waits.get((current.app, current.version), ())]
    return [*dict.fromkeys([*(spec.key for spec in specs), *before])]


def awaits_row(server: Server, current: Deployment) -> Row | None:
    """Return which version goes on because the current one is not ready yet, and for which functions."""
    return _awaits_row(server, _waiting(server).get((current.app, current.version), ()))


def _awaits_row(server: Server, waits: Sequence[Pool]) -> Row | None:
    before = [found for pool in waits if (found := server.plane.state.pools.get(pool.awaits)) is not None]
    if not before:
        return None
    return {
        "version": max(pool.spec.version for pool in before),
        "state": _readiness(waits),
        "functions": sorted({pool.spec.name for pool in before}),
    }


def _stopped_row(server: Server, current: Deployment) -> Row | None:
    """Return the version that was to follow the current one and could not run, if nothing has come of it since."""
    ended = server.functions.rollouts.get(current.app)
    if ended is None or ended.state != FAILED or ended.version <= current.version:
        return None
    return {"version": ended.version, "kind": ended.kind, "why": ended.why, "at": ended.changed}


def _app_row(
    server: Server, app: str, run_id: str = "", *, keys: list[str], version: int = 0, created: float | None = None
) -> Row:
    state, specs = server.plane.state, server.functions.specs
    pools = [state.pools[key] for key in keys if key in state.pools]
    served_as = server.functions.name_of_served(app, run_id) if run_id else ""
    return {
        "app": app,
        "version": version,
        "run_id": run_id,
        "created": created,
        "current": not run_id,
        "served_as": served_as,
        "urls": urls(server, served_as or app, [specs[key] for key in keys]) if served_as or not run_id else {},
        "functions": sorted({specs[key].name for key in keys}),
        "queued": sum(len(pool.queue) + pool.backoff for pool in pools),
        "running": sum(pool.running for pool in pools),
        "workers": sum(len(pool.workers) for pool in pools),
        "trouble": troubles(server, pools),
    }


def urls(server: Server, app: str, specs: Sequence[FunctionSpec]) -> dict[str, str]:
    """Return where endpoints are reached, by name; nothing where this server has no door for HTTP."""
    http = server.http
    if http is None:
        return {}
    webs = {s.name: s.web for s in specs if s.web is not None}
    webs |= {f"{s.name}/{name}": one.web for s in specs for name, one in s.methods.items() if one.web is not None}
    return {
        name.replace("/", "."): f"{http.urls[0]}/{app}/{name}{'/' if web.app else ''}" for name, web in webs.items()
    }


def beside_row(beside: Beside) -> Row:
    """Return what a canary, or a shadow, is."""
    rollout = beside.rollout
    return {
        "version": rollout.version,
        "kind": rollout.kind,
        "percent": percent(rollout.parts),
        "since": rollout.changed,
    }


def percent(parts: int) -> float:
    """Return a share as people write it."""
    return parts * 100 / PARTS


def ending(rollout: Rollout) -> str:
    """Say how a version ended to stand beside the current one."""
    why = f" ({rollout.why})" if rollout.why else ""
    said = {PROMOTED: "was promoted", ABORTED: "was aborted", FAILED: "could not run", REPLACED: "was replaced"}
    return said.get(rollout.state, rollout.state) + why

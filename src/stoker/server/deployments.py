"""Requests about versions of apps: to deploy one, to try one beside the current one, to go back, to list them."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from stoker.core import events as e
from stoker.core import handover
from stoker.core.intake import unschedulable
from stoker.core.pools import Pool, WorkerState
from stoker.core.traffic import PARTS, version_before
from stoker.core.trials import CANARY, SHADOW
from stoker.errors import InvalidOption, InvalidRequest, NotFound, StoreError, Unschedulable
from stoker.server import version_rows
from stoker.server.functions import ACTIVE, FAILED, RECREATE, STRATEGY, Beside
from stoker.server.request_parameters import Params, get
from stoker.server.reserved_names import check_names, is_reached
from stoker.server.sessions import Session
from stoker.server.version_rows import (
    ABORTED,
    BY,
    FAILED_STARTS,
    OWN_TAGS,
    PROMOTED,
    REPLACED,
    REQUEST,
    SAME_AS,
    STRATEGIES,
    UNREADY,
    beside_row,
)
from stoker.store.base import Deployment, Rollout
from stoker.types import FunctionSpec

if TYPE_CHECKING:
    from stoker.server.server import Server

log = logging.getLogger(__name__)

READY_SECONDS_MAX = 900.0  # for an environment to be built and a model to be loaded; it goes on without us then
READY_POLL_SECONDS = 0.02
RETRY_SECONDS = 1.0  # between tries to write down what nobody asks for again
MISTAKEN_SECONDS = 600.0  # so long after a canary has ended, a rollback may be meant for that
T = TypeVar("T")


class DeploymentVerbs:
    """See the module. Changes are made one after the other: each sees what the one before has made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._changing = asyncio.Lock()
        self._user = _own_user()

    # New versions

    async def do_deploy(self, session: Session, params: Params) -> Params:
        async with self._changing:
            told = await self._deploy(session, params)
        return await self._once_ready(get(params, "app", str), told)

    async def _once_ready(self, app: str, told: Params) -> Params:
        """Wait until a version that takes over has workers, or until it is seen that it gets none for now.

        What does not start is told, and which version goes on in its place, if any does. So is what has replaced it
        meanwhile; 0 if the app was stopped.
        """
        until = self._server.now() + READY_SECONDS_MAX
        is_beside = "beside" in told
        while waits := [] if is_beside else self._waiting(app, told["version"]):
            now = self._server.now()
            failing = any(pool.bad_starts >= FAILED_STARTS or handover.has_no_room(pool, now) for pool in waits)
            if failing or self._server.now() >= until:
                found = version_rows.troubles(self._server, waits)
                known = self._server.plane.state.pools
                before = {x.spec.name: known[x.awaits].spec.version for x in waits if x.awaits in known}
                unready = {x.spec.name: found.get(x.spec.name, version_rows.STILL) for x in waits}
                return {**told, "waits": unready, "goes_on": before}
            await asyncio.sleep(READY_POLL_SECONDS)
        current = self._server.functions.current.get(app)
        if not is_beside and (current is None or current.version > told["version"]):
            return {**told, "replaced_by": current.version if current is not None else 0}
        pools = version_rows.pools_of(self._server, app, told["version"])
        untried = {x.spec.name: x.untried for x in pools if x.untried}
        return {**told, "untried": untried} if untried and not told.get("unchanged") else told

    def _waiting(self, app: str, version: int) -> list[Pool]:
        return [pool for pool in version_rows.pools_of(self._server, app, version) if _is_waited_for(pool)]

    async def _deploy(self, session: Session, params: Params, *, same_as: int = 0) -> Params:
        app, specs = get(params, "app", str), get(params, "functions", list[FunctionSpec])
        self._check_schedulable(specs)
        check_names(app, specs)
        request, anew = get(params, "request", str), get(params, "anew", bool, False)
        current, beside = self._server.functions.current.get(app), self._server.functions.beside.get(app)
        strategy = _strategy(params)
        wanted = _rollout(app, params)
        _check_rollout(wanted, current, strategy)
        if wanted is not None and current is not None:
            self._check_ready(wanted, current)
        if current is not None and not anew and current.tags.get(REQUEST) != request:
            is_alike = wanted is not None or strategy == current.tags.get(STRATEGY, STRATEGIES[0])
            if is_alike and _same(current.functions, specs):
                return self._told(current, unchanged=True)
        if wanted is not None and beside is not None and _is_tried(beside, wanted, specs, request):
            await self._change(beside, parts=wanted.parts)
            return self._told(beside.deployment, unchanged=True)
        tags = {**_tags(params), REQUEST: request, BY: self._who(session), STRATEGY: strategy}
        if same_as:
            tags[SAME_AS] = str(same_as)
        unready = self._unready(app) if wanted is None else None
        made, rollout, ended = await self._in_writer(lambda: self._make(app, specs, tags, wanted, unready))
        if ended is not None:
            self._server.functions.rollouts[app] = ended
        self._take_up(made, rollout)
        told = self._told(made)
        if made.current and current is not None and (gone := version_rows.gone(current.functions, made.functions)):
            told["gone"] = gone
        return {**told, "ended": {"version": ended.version, "was": ended.kind}} if ended is not None else told

    def _check_ready(self, wanted: Rollout, current: Deployment) -> None:
        """Make sure that the current version takes the calls that one beside it does not.

        Raises:
            InvalidRequest: it waits to take over from the version before.
        """
        row = version_rows.awaits_row(self._server, current)
        if row is None:
            return
        state = "still starting" if row["state"] == version_rows.STARTING else row["state"]
        raise InvalidRequest(
            f"Version {current.version} of {wanted.app}, the current one, is {state}, and version {row['version']} "
            f"answers in its place: a {wanted.kind} would stand beside what is not ready. `stoker apps rollback "
            f"{wanted.app}` calls version {current.version} off; then deploy the {wanted.kind}. Or deploy without "
            f"--{wanted.kind}: a version takes over once it is ready."
        )

    def _unready(self, app: str) -> Rollout | None:
        """Return what is to be kept of a current version that another one replaces before it was ever ready."""
        current = self._server.functions.current.get(app)
        found = version_rows.why_unready(self._server, current) if current is not None else {}
        if current is None or not found:
            return None
        return Rollout(app, current.version, "", 0, UNREADY, time.time(), version_rows.in_a_line(found))

    def _never_ready(self, unready: Rollout | None) -> list[Rollout]:
        """Return that a version was never ready as it is to be written, unless it has been found good as a canary."""
        if unready is None:
            return []
        rollouts = self._server.store.rollouts(app=unready.app)
        known = next((one for one in rollouts if one.version == unready.version), None)
        return [unready] if known is None or known.state != PROMOTED else []

    def _make(
        self,
        app: str,
        specs: Sequence[FunctionSpec],
        tags: dict[str, str],
        wanted: Rollout | None,
        unready: Rollout | None,
    ) -> tuple[Deployment, Rollout | None, Rollout | None]:
        """Make a version, unless this very request has made one before its answer, or the server, was lost.

        With it comes what it is beside the current one, and what has ended to be that by it.
        """
        store, epoch = self._server.store, self._server.epoch
        plain = [replace(spec, version=0, run_id="") for spec in specs]
        for made in store.deployments(app=app):
            if made.tags.get(REQUEST) == tags[REQUEST] and plain == [replace(one, version=0) for one in made.functions]:
                return made, next((one for one in store.rollouts(app=app) if one.version == made.version), None), None
        now, beside, ended = time.time(), self._server.functions.beside.get(app), list[Rollout]()
        before = self._never_ready(unready)

        def others(version: int) -> list[Rollout]:
            if beside is not None:
                state, what = (ABORTED, "rolled back") if SAME_AS in tags else (REPLACED, "deployed")
                why = f"version {version} was {what} by {tags[BY]}"
                ended[:] = [replace(beside.rollout, state=state, changed=now, why=why)]
            return [*before, *ended]

        made = store.deploy(epoch, app, specs, now=now, tags=tags, rollout=wanted, others=others)
        rollout = replace(wanted, version=made.version) if wanted is not None else None
        return made, rollout, ended[0] if ended else None

    def _take_up(self, deployment: Deployment, rollout: Rollout | None) -> None:
        current = self._server.functions.current.get(deployment.app)
        if deployment.current and (current is None or current.version != deployment.version):
            self._server.functions.deployed(deployment, same_as=version_rows.same_as(deployment))
        elif not deployment.current and rollout is not None and rollout.state == ACTIVE:
            self._server.functions.stand_beside(rollout, deployment)
        self._server.shadows.look()
        self._server.flush()

    def _told(self, deployment: Deployment, *, unchanged: bool = False) -> Params:
        app = deployment.app
        beside = self._server.functions.beside.get(app)
        told: Params = {
            "version": deployment.version,
            "functions": [spec.name for spec in deployment.functions],
            "urls": version_rows.urls(self._server, app, deployment.functions),
        }
        if self._server.http is None and any(map(is_reached, deployment.functions)):
            told["no_http"] = self._server.no_http
        if unchanged:
            told["unchanged"] = True
        if beside is not None and beside.version == deployment.version:
            told["beside"] = beside_row(beside)
        return told

    def _who(self, session: Session) -> str:
        """Return who asks, for people: a user of this machine, or the name of a token."""
        rows = self._server.client_tokens.rows() if session.holder else []
        named = next((str(row["name"]) for row in rows if row["id"] == session.holder), session.holder)
        return f"token {named}" if named else self._user

    async def do_undeploy(self, session: Session, params: Params) -> None:
        app, server = get(params, "app", str), self._server
        async with self._changing:
            beside, seen, now = server.functions.beside.get(app), _seen(params), self._now(app)
            if seen["current"] and not now["current"]:
                return  # said again, or by two at once: what was to be stopped is
            if seen["current"] and (seen["current"] != now["current"] or now["beside"] not in {0, seen["beside"]}):
                raise self._has_changed(app, "stop it")
            if not now["current"]:
                raise NotFound(f"No app {app!r} is deployed. `stoker apps list` shows those that are.")
            ended = []
            if beside is not None:
                ended = [replace(beside.rollout, state=ABORTED, changed=time.time(), why="the app was stopped")]
            await self._in_writer(lambda: server.store.undeploy(server.epoch, app, *ended))
            server.functions.undeployed(app)
            server.shadows.look()

    async def do_rollback(self, session: Session, params: Params) -> Params:
        """Go back to a version that is named, or to the one before; from a canary or a shadow to the current one."""
        app, version, store = get(params, "app", str), get(params, "version", int, 0), self._server.store
        request = get(params, "request", str)
        async with self._changing:
            history = await asyncio.to_thread(lambda: store.deployments(app=app))
            made = next((d for d in history if d.tags.get(REQUEST) == request and version_rows.same_as(d)), None)
            if made is not None:  # said again, because the answer was lost: where it goes to is settled
                self._take_up(made, None)
                told = {**self._told(made), "same_as": version_rows.same_as(made)}
            else:
                told = await self._rollback(session, app, version, history, params)
        return told if told.get("unchanged") else await self._once_ready(app, told)

    async def _rollback(
        self, session: Session, app: str, version: int, history: Sequence[Deployment], params: Params
    ) -> Params:
        current = self._server.functions.current.get(app)
        if not version and current is not None:
            ended = await self._back_to_current(session, current, get(params, "seen", dict[str, int], {}))
            if ended is not None:
                return {**self._told(current), "same_as": current.version, "unchanged": True, "ended": ended}
        if not version:
            version = await self._version_to_go_back_to(app, current, history)
        wanted = next((d for d in history if d.version == version), None)
        if wanted is None:
            versions = ", ".join(str(d.version) for d in history) or "none"
            raise NotFound(f"App {app!r} has no version {version}. It has: {versions}.")
        one_at_a_time = RECREATE in {d.tags.get(STRATEGY) for d in (wanted, current) if d is not None}
        given = {
            "app": app,
            "functions": [*wanted.functions],
            "request": get(params, "request", str),
            "anew": True,
            "tags": {name: text for name, text in wanted.tags.items() if name not in OWN_TAGS},
            "strategy": RECREATE if one_at_a_time else STRATEGIES[0],
        }
        return {**await self._deploy(session, given, same_as=version), "same_as": version}

    async def _back_to_current(self, session: Session, current: Deployment, seen: dict[str, int]) -> Params | None:
        """End what stands beside the current version; None where it is the current one that is to go.

        ``seen`` is which version was the current one, and which stood beside it, for whoever asks. Two may ask at once,
        and a canary may stop by itself: then the current one is what both wanted, and is not gone back from.

        Raises:
            InvalidRequest: it is not as was seen, or a canary has ended already, a short time ago.
        """
        app, functions = current.app, self._server.functions
        beside, last = functions.beside.get(app), functions.rollouts.get(app)
        ended = (
            last if last is not None and last.version > current.version and last.state in {ABORTED, FAILED} else None
        )
        now = {"current": current.version, "beside": beside.version if beside is not None else 0}
        if seen and beside is None and ended is not None:
            if seen == {**now, "beside": ended.version}:
                return {"version": ended.version, "was": ended.kind, "already": version_rows.ending(ended)}
            if seen == now and ended.kind == CANARY and time.time() - ended.changed < MISTAKEN_SECONDS:
                raise InvalidRequest(
                    f"Version {ended.version} of {app}, a {ended.kind}, {version_rows.ending(ended)} a short time "
                    f"ago, and version {current.version}, the one before it, answers all calls. To go back from "
                    f"that as well, say to which one: `stoker apps rollback {app} --to VERSION`; `stoker apps history "
                    f"{app}` lists them."
                )
        if seen and seen != now:
            which = f"version {current.version}" + (f", with version {beside.version} beside it" if beside else "")
            raise InvalidRequest(
                f"{app} was changed just now: the current one is {which}. `stoker apps history {app}` shows it; roll "
                "back again if that is still to be."
            )
        return await self._abort(session, beside) if beside is not None else None

    async def _version_to_go_back_to(self, app: str, current: Deployment | None, history: Sequence[Deployment]) -> int:
        """Return the version before, or the one that goes on because the current one is not ready."""
        store = self._server.store
        row = version_rows.awaits_row(self._server, current) if current is not None else None
        is_back = row is not None and current is not None and row["version"] == version_rows.same_as(current)
        if current is None or row is None or is_back or all(made.version != row["version"] for made in history):
            rollouts = await asyncio.to_thread(lambda: store.rollouts(app=app))
            return _version_before(app, current, history, rollouts)
        goes_on: int = row["version"]
        if row["state"] == version_rows.STARTING and (before := version_rows.same_as(current)):
            raise InvalidRequest(
                f"{app} is being rolled back already: version {current.version}, the same as version {before}, is "
                f"starting, and version {goes_on} answers until it is ready. `stoker apps rollback {app} --to "
                f"{goes_on}` calls that off; --to VERSION goes to any other."
            )
        return goes_on

    # Versions beside the current one

    async def do_share(self, session: Session, params: Params) -> Params:
        async with self._changing:
            beside = self._beside(params)
            await self._change(beside, parts=_parts(get(params, "percent", float)))
            return beside_row(beside)

    async def do_promote(self, session: Session, params: Params) -> Params:
        async with self._changing:
            if (over := await self._ended_so(params, PROMOTED, "promote it")) is not None:
                return {"version": over.version, "was": over.kind}
            beside, server = self._beside(params), self._server
            rollout = replace(beside.rollout, state=PROMOTED, changed=time.time(), why="")
            unready = self._unready(rollout.app)

            def write() -> None:
                server.store.put_rollout(server.epoch, rollout, *self._never_ready(unready), makes_current=True)

            await self._in_writer(write)
            server.functions.rollouts[rollout.app] = rollout
            server.functions.deployed(replace(beside.deployment, current=True))
            server.shadows.look()
            server.flush()
            return {"version": beside.version, "was": beside.rollout.kind}

    async def do_abort(self, session: Session, params: Params) -> Params:
        async with self._changing:
            app = get(params, "app", str)
            if (over := await self._ended_so(params, ABORTED, "end that")) is not None:
                return {"version": over.version, "was": over.kind, "current": self._current_of(app)}
            ended = await self._abort(session, self._beside(params))
            return {**ended, "current": self._current_of(app)}

    async def _ended_so(self, params: Params, state: str, what: str) -> Rollout | None:
        """Return what was seen to stand beside the current version, and ended already as is asked for.

        So it is where that is said again to the next server, or by two at once.

        Raises:
            InvalidRequest: another version stands there than was seen.
        """
        app, seen = get(params, "app", str), _seen(params)
        if not seen["current"] or seen == self._now(app):
            return None
        rollouts = await asyncio.to_thread(lambda: self._server.store.rollouts(app=app))
        over = next((one for one in rollouts if one.version == seen["beside"] and one.state == state), None)
        if over is None and self._now(app)["beside"]:
            raise self._has_changed(app, what)
        return over

    def _now(self, app: str) -> dict[str, int]:
        """Return which version is the current one, and which stands beside it; 0 for none."""
        beside = self._server.functions.beside.get(app)
        return {"current": self._current_of(app), "beside": beside.version if beside is not None else 0}

    def _has_changed(self, app: str, what: str) -> InvalidRequest:
        now = self._now(app)
        beside = f", with version {now['beside']} beside it" if now["beside"] else ""
        return InvalidRequest(
            f"{app} was changed just now: the current one is version {now['current']}{beside}. `stoker apps history "
            f"{app}` shows who deployed what; {what} again if that is still to be."
        )

    async def _abort(self, session: Session, beside: Beside) -> Params:
        server, why = self._server, f"by {self._who(session)}"
        rollout = replace(beside.rollout, state=ABORTED, changed=time.time(), why=why)
        await self._in_writer(lambda: server.store.put_rollout(server.epoch, rollout))
        server.functions.step_down(rollout)
        server.shadows.look()
        server.flush()
        return {"version": beside.version, "was": beside.rollout.kind}

    async def _change(self, beside: Beside, *, parts: int) -> None:
        server = self._server
        rollout = replace(beside.rollout, parts=parts, changed=time.time())
        await self._in_writer(lambda: server.store.put_rollout(server.epoch, rollout))
        if server.functions.beside.get(rollout.app) is not beside:
            raise self._none_beside(rollout.app)  # it could not run meanwhile; that is written after this
        beside.rollout = server.functions.rollouts[rollout.app] = rollout

    def _beside(self, params: Params) -> Beside:
        app, functions = get(params, "app", str), self._server.functions
        if app not in functions.current:
            raise NotFound(f"No app {app!r} is deployed. `stoker apps list` shows those that are.")
        if app not in functions.beside:
            raise self._none_beside(app)
        return functions.beside[app]

    def _none_beside(self, app: str) -> NotFound:
        ended = self._server.functions.rollouts.get(app)
        last = f" The last one, version {ended.version}, {version_rows.ending(ended)}." if ended is not None else ""
        return NotFound(
            f"No version of {app} stands beside version {self._current_of(app)}.{last} `stoker deploy FILE.py --canary "
            "10`, or --shadow, makes one."
        )

    def _current_of(self, app: str) -> int:
        current = self._server.functions.current.get(app)
        return current.version if current is not None else 0

    async def trial_failed(self, key: str, why: str) -> None:
        """A version beside the current one cannot run: all calls go to the current one, those that wait as well.

        At once, whatever else is being changed; where that has ended the trial meanwhile, only what waits is moved.
        """
        server, functions = self._server, self._server.functions
        spec = functions.specs.get(key)
        beside = functions.beside.get(spec.app) if spec is not None else None
        if spec is None or beside is None or beside.version != spec.version:
            self._hand_over([key])
            return
        rollout = replace(beside.rollout, state=FAILED, changed=time.time(), why=f"{spec.name}: {why}")
        log.warning("version %d of %s, a %s, was stopped: %s", spec.version, spec.app, rollout.kind, rollout.why)
        keys = functions.step_down(rollout)
        server.shadows.look()
        self._hand_over(keys if rollout.kind == CANARY else [])
        await self._write_down_failed(rollout)

    async def _write_down_failed(self, failed: Rollout) -> None:
        """Write down that a version could not run, until that is done: a restart would bring it back with its share."""
        store, epoch, told = self._server.store, self._server.epoch, False

        def write() -> None:
            known = next((one for one in store.rollouts(app=failed.app) if one.version == failed.version), None)
            if known is not None and known.state == ACTIVE:  # else a change that was under way has ended it
                store.put_rollout(epoch, failed)

        while True:
            try:
                return await self._in_writer(write)
            except StoreError as error:
                if not told:
                    log.error("that version %d of %s failed is not written: %s", failed.version, failed.app, error)
                told = True
                await asyncio.sleep(RETRY_SECONDS)

    def _hand_over(self, keys: Sequence[str]) -> None:
        """Have the current version run what waits in pools of one that is over; one that was promoted keeps its own."""
        functions = self._server.functions
        for key in keys:
            by = functions.newest(key)
            if key in functions.outdated:
                self._server.decide(e.PoolReplaced(key, "" if by == key else by))
        self._server.flush()

    # What there is

    async def do_history(self, session: Session, params: Params) -> list[Params]:
        return await version_rows.history(self._server, get(params, "app", str))

    async def do_apps(self, session: Session, params: Params) -> list[Params]:
        return version_rows.apps(self._server)

    async def do_shadow(self, session: Session, params: Params) -> Params:
        beside = self._beside(params)
        if beside.rollout.kind != SHADOW:
            raise InvalidRequest(
                f"Version {beside.version} of {beside.rollout.app} is a canary: it answers its calls, and nothing is "
                "compared. `stoker deploy FILE.py --shadow` makes a shadow."
            )
        return {
            **beside_row(beside),
            "current": self._current_of(beside.rollout.app),
            "waiting": self._server.shadows.waiting(beside),
            **self._server.shadows.report(beside),
        }

    def _check_schedulable(self, specs: list[FunctionSpec]) -> None:
        state = self._server.plane.state
        for spec in specs:
            error = unschedulable(state, Pool(spec.key, spec), count=1)
            if error is not None:
                raise Unschedulable(error.message)

    async def _in_writer(self, work: Callable[[], T]) -> T:
        """Run a store's write in the writer's thread, after all that was put in before."""
        return await self._server.writer.result_of(work)


def _own_user() -> str:
    """Return whose server this is; only programs of that user reach it without a token."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        return f"uid {os.getuid()}"


def _same(deployed: Sequence[FunctionSpec], wanted: Sequence[FunctionSpec]) -> bool:
    """Tell whether these are the functions that are deployed already, from wherever they are deployed again."""

    def plain(specs: Sequence[FunctionSpec]) -> list[FunctionSpec]:
        return sorted((replace(spec, version=0, run_id="") for spec in specs), key=lambda spec: spec.name)

    return plain(deployed) == plain(wanted)


def _is_tried(beside: Beside, wanted: Rollout, specs: Sequence[FunctionSpec], request: str) -> bool:
    """Tell whether what is to stand beside the current version does so already, by another request."""
    made = beside.deployment
    return wanted.kind == beside.rollout.kind and made.tags.get(REQUEST) != request and _same(made.functions, specs)


def _seen(params: Params) -> dict[str, int]:
    """Return which versions a change is meant for; zeros where whoever asks does not say."""
    return {"current": 0, "beside": 0, **get(params, "seen", dict[str, int], {})}


def _tags(params: Params) -> dict[str, str]:
    tags: dict[str, str] = get(params, "tags", dict[str, str], {})
    if taken := OWN_TAGS & tags.keys():
        raise InvalidOption(f"A deployment's tags cannot be named {', '.join(sorted(taken))}: the server has those.")
    return tags


def _is_waited_for(pool: Pool) -> bool:
    """Tell whether whoever deploys waits for a worker of it: it takes over then, or is to be warm from the start.

    What is to be warm, or goes back to the version that answers, is not waited for while that waits for room.
    """
    starts = any(worker.state is WorkerState.STARTING for worker in pool.workers.values())
    if pool.awaits:
        return starts or not pool.is_back
    is_new = bool(pool.options.min_workers) and not pool.retired and not pool.was_ready
    return is_new and (starts or pool.bad_starts > 0)


def _strategy(params: Params) -> str:
    strategy: str = get(params, "strategy", str, STRATEGIES[0])
    if strategy not in STRATEGIES:
        raise InvalidOption(f"strategy={strategy!r} is none. There are: {', '.join(STRATEGIES)}.")
    return strategy


def _rollout(app: str, params: Params) -> Rollout | None:
    """Return what a new version is to be beside the current one; None if it is to take its place."""
    kind = get(params, "beside", str, "")
    if not kind:
        return None
    if kind not in {CANARY, SHADOW}:
        raise InvalidRequest(f"A version is a canary or a shadow beside the current one, not a {kind!r:.40}.")
    return Rollout(app, 0, kind, _parts(get(params, "percent", float, 100.0)), ACTIVE, time.time())


def _parts(percent: float) -> int:
    parts = round(percent * PARTS / 100)
    if not 0 <= percent <= 100 or abs(parts - percent * PARTS / 100) > 1e-6:
        raise InvalidOption(f"{percent:g} is no share in percent: a number from 0 to 100, with two decimals at most.")
    return parts


def _check_rollout(wanted: Rollout | None, current: Deployment | None, strategy: str) -> None:
    if wanted is None:
        return
    if current is None:
        raise InvalidRequest(
            f"{wanted.app} is not deployed, so there is nothing for a {wanted.kind} to stand beside. Deploy it once "
            f"without --{wanted.kind}."
        )
    if RECREATE in {strategy, current.tags.get(STRATEGY)}:
        raise InvalidRequest(
            f"{wanted.app} is deployed with strategy=recreate: one version runs at a time, so none can stand beside "
            "another as a canary or a shadow. Deploy it with --strategy rolling once, if there is room for two."
        )


def _version_before(
    app: str, current: Deployment | None, history: Sequence[Deployment], rollouts: Sequence[Rollout]
) -> int:
    if not history:
        raise NotFound(f"No app {app!r} was ever deployed. `stoker apps list` shows those that are.")
    if current is None:
        raise NotFound(
            f"No version of {app!r} is deployed now. Say which one is to be, by `stoker apps rollback {app} --to "
            f"VERSION`; `stoker apps history {app}` lists them."
        )
    never = {one.version for one in rollouts if one.state != PROMOTED}
    same_as = {made.version: one for made in history if (one := version_rows.same_as(made))}
    found = version_before(current.version, (made.version for made in history if made.version not in never), same_as)
    if found is None:
        is_same = f", the same as version {same_as[current.version]}," if current.version in same_as else ""
        raise NotFound(
            f"{app} has no earlier version to go back to: none answered before what version {current.version}{is_same} "
            f"runs. `stoker apps history {app}` lists all; --to VERSION goes to any of them."
        )
    return found

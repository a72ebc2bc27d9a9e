"""What may be called: functions of runs and of deployed versions, and the pools they have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stoker.core import events as e
from stoker.core.pools import Pool
from stoker.core.traffic import Turns
from stoker.errors import NotFound
from stoker.server.near_names import nearest
from stoker.store.base import Deployment, Rollout, Store
from stoker.types import FunctionSpec

OLD_VERSIONS_KEPT = 20  # of each deployed app, for `stoker apps rollback`; older ones are forgotten
SERVED_SUFFIX = "-dev"  # by which a served app is found beside a deployed one of its name
ACTIVE = "active"  # the state of a rollout that goes on
FAILED = "failed"  # of one whose version could not run
STRATEGY = "strategy"  # the tag of a deployment that says how it takes the place of the one before
RECREATE = "recreate"


@dataclass(slots=True)
class Beside:
    """A version that stands beside the current one of its app: a canary, or a shadow."""

    rollout: Rollout
    deployment: Deployment
    turns: dict[str, Turns] = field(default_factory=dict)  # by pool of the current version
    pairs: dict[str, str] = field(default_factory=dict)  # pools of the current version → of this one; empty for none

    @property
    def version(self) -> int:
        return self.deployment.version

    def find(self, name: str) -> FunctionSpec | None:
        return next((spec for spec in self.deployment.functions if spec.name == name), None)


@dataclass(slots=True)
class Functions:
    """See the module. ``decide`` takes events; ``keep`` writes a spec down, without anybody waiting. ``is_used`` tells
    of a pool whether it has workers, or waits to take over from one that has. ``pools`` are the core's.

    While a function of an earlier version goes on because the next one is not ready, others of that version stay as
    well, which it may call: they *linger*.

    Runs have no name that others could call them by, but for those that are *served*: a served app has its own name
    unless an app is deployed under it, and always that with `SERVED_SUFFIX`. Of several, the one served last counts.
    """

    store: Store
    decide: Callable[[e.Event], None]
    keep: Callable[[FunctionSpec], None]
    is_used: Callable[[str], bool]
    specs: dict[str, FunctionSpec] = field(default_factory=dict)
    undeclared: set[str] = field(default_factory=set)  # keys of specs that the core was not told of, or nobody claimed
    runs: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)  # (app, run id) → name → key
    variants: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # (app, run id) → keys of `with_options`
    current: dict[str, Deployment] = field(default_factory=dict)
    served: dict[str, list[str]] = field(default_factory=dict)  # app → ids of runs
    replaced: dict[str, tuple[str, str]] = field(default_factory=dict)  # key of a served run that is over → app, name
    outdated: dict[str, tuple[str, str]] = field(default_factory=dict)  # key of an earlier version → app, name
    beside: dict[str, Beside] = field(default_factory=dict)  # by app
    rollouts: dict[str, Rollout] = field(default_factory=dict)  # the latest one of each app, however it ended
    versions: dict[tuple[str, int], dict[str, str]] = field(default_factory=dict)  # app, version → name → key
    lingering: dict[str, dict[str, str]] = field(default_factory=dict)  # app → key of an earlier version → name
    pools: Mapping[str, Pool] = field(default_factory=dict)
    older: set[tuple[str, int]] = field(default_factory=set)  # app, version: current ones of an earlier term
    generation: int = 0  # another one where a name may lead elsewhere than before

    def load(self) -> None:
        """Declare what is deployed."""
        versions = self.store.deployments()
        self.current = {deployment.app: deployment for deployment in versions if deployment.current}
        self.older = {(made.app, made.version) for made in self.current.values()}
        latest = {one.app: one for one in reversed(self.store.rollouts()) if one.kind}
        for deployment in versions:
            rollout = latest.get(deployment.app)
            current = self.current.get(deployment.app)
            if rollout is not None and rollout.version == deployment.version and current is not None:
                self.rollouts[deployment.app] = rollout
                # One that is older was ended by the current one: the server ended before it could write that down.
                if rollout.state == ACTIVE and deployment.version > current.version:
                    self.beside[deployment.app] = Beside(rollout, deployment)
        for deployment in versions:
            self._note(deployment)
            beside = self.beside.get(deployment.app)
            is_there = deployment.current or (beside is not None and beside.version == deployment.version)
            for spec in deployment.functions:
                if is_there:
                    self.declare(spec)
                else:
                    self.outdated[spec.key] = (spec.app, spec.name)

    def _note(self, deployment: Deployment) -> None:
        names = {spec.name: spec.key for spec in deployment.functions}
        self.versions[deployment.app, deployment.version] = names

    def known(self, key: str) -> FunctionSpec | None:
        """Return a spec by its pool's key, also one of an earlier term; nothing is declared."""
        spec = self.specs.get(key)
        if spec is None and (spec := self.store.function(key)) is not None:
            self.specs[key] = spec
            self.undeclared.add(key)
        return spec

    def in_version(self, app: str, version: int, name: str) -> FunctionSpec | None:
        """Return the function of this name that a version has, be it the current one or not; None without one."""
        return self.known(self.versions.get((app, version), {}).get(name, ""))

    def ensure(self, key: str) -> FunctionSpec | None:
        """Return a spec by its pool's key, from what an earlier term of this server knew if need be."""
        spec = self.known(key)
        if spec is not None and key in self.undeclared:
            self._note_outdated(spec)
            self.declare(spec)
        return spec

    def _note_outdated(self, spec: FunctionSpec) -> bool:
        """Tell whether a pool is of a version that is over, and note it if its calls by name go to the newest one.

        Of pools that were made of a version's functions that is so for a class with other parameters; one that has
        other options stays what it is.
        """
        key, app, version = spec.key, spec.app, spec.version
        if spec.run_id or not version or any(made.app == app and made.version == version for made in self._there()):
            return False
        if key not in self.outdated and app in self.current and not self._version_goes_on(app, version):
            base = next((one for one in self._functions_of(app, version) if one.name == spec.name), None)
            if base is not None and replace(spec, parameters=base.parameters) == base:
                self.outdated[key] = (app, spec.name)
        return key in self.outdated or app not in self.current

    def _functions_of(self, app: str, version: int) -> Sequence[FunctionSpec]:
        return next((made.functions for made in self.store.deployments(app=app) if made.version == version), ())

    def register(self, specs: Sequence[FunctionSpec], *, app: str, run_id: str, served: bool = False) -> dict[str, str]:
        """Take in an ephemeral app's functions; return their keys by name."""
        self.generation += 1
        if served and run_id not in self.served.setdefault(app, []):
            self.served[app].append(run_id)
        names = self.runs.setdefault((app, run_id), {})
        keys = {}
        for spec in specs:
            was_outdated = spec.key in self.outdated
            if self._note_outdated(spec):
                keys[spec.name] = self._claim_newest(spec, was_outdated=was_outdated)
                continue
            key = keys[spec.name] = self.declare(spec)
            # The first one of a name is the function; others are the same code with other options.
            if names.setdefault(spec.name, key) != key:
                self.variants.setdefault((app, run_id), set()).add(key)
            self.keep(spec)
        return keys

    def _claim_newest(self, spec: FunctionSpec, *, was_outdated: bool) -> str:
        """Have what has replaced a pool be there for its program, which has not heard of it; return the pool's key."""
        key = spec.key
        self.keep(spec)
        if spec.app in self.current:
            self.specs.setdefault(key, spec)
            by = self.newest(key)
            if not was_outdated:  # it had workers, and was not known to be in use, when the newest took over
                self.retire(key, by="" if by == key else by)
        return key

    def retire_runs(self, runs: Iterable[tuple[str, str]], *, held: Sequence[Collection[tuple[str, str]]]) -> None:
        """A program has ended, and its runs with it; those that are ``held`` by others have not.

        Without a run's id it is what was made of deployed functions: other options, or a class's parameters.
        """
        for app, run_id in runs:
            if run_id or not any((app, run_id) in others for others in held):
                self.retire_run(app, run_id)

    def retire_run(self, app: str, run_id: str) -> None:
        """An ephemeral app has ended: its pools drain."""
        self.generation += 1
        if run_id in self.served.get(app, ()):
            self.served[app].remove(run_id)
            self.replaced.update((key, (app, name)) for name, key in self.runs.get((app, run_id), {}).items())
            self.replaced.update((key, (app, self.specs[key].name)) for key in self._instances_of(app, run_id))
        for key in {*self.runs.pop((app, run_id), {}).values(), *self.variants.pop((app, run_id), ())}:
            self.retire(key)

    def _instances_of(self, app: str, run_id: str) -> list[str]:
        """Return the pools of a run's classes, or of deployed ones, that differ from them in their parameters only."""
        names = self.runs.get((app, run_id), {})
        return self._instances(app, (names if run_id else self._deployed(app)).values(), run_id=run_id)

    def _instances(self, app: str, keys: Iterable[str], *, run_id: str = "") -> list[str]:
        """Return the pools of these classes that differ from them in their parameters only."""
        bases = {self.specs[key].name: self.specs[key] for key in keys if key in self.specs}
        found = []
        for key in {*self.runs.get((app, run_id), {}).values(), *self.variants.get((app, run_id), ())}:
            spec = self.specs.get(key)
            base = bases.get(spec.name) if spec is not None else None
            if spec is None or base is None or spec.parameters == base.parameters:
                continue
            if replace(spec, parameters=base.parameters) == base:
                found.append(key)
        return found

    def _deployed(self, app: str) -> dict[str, str]:
        deployment = self.current.get(app)
        return {spec.name: spec.key for spec in deployment.functions} if deployment is not None else {}

    def retire_unclaimed(self) -> None:
        """Let go of what programs of an earlier term of this server had, and have not come back for.

        That is their runs, and what they have made of deployed functions. Of these the next call makes one anew: who
        was only given a reference to it has nothing to come back with.
        """
        for key, spec in [*self.specs.items()]:
            if self._is_held(spec) or key in self.outdated:
                continue
            self.retire(key)
            if not spec.run_id and all(key != one.key for made in self._there() for one in made.functions):
                self.undeclared.add(key)

    def deployed(self, deployment: Deployment, *, same_as: int = 0) -> None:
        """Make this version the current one; the pools of the one before drain, and of one that stood beside it.

        ``same_as`` is the version that it is the same as, if a rollback has made it.
        """
        self.generation += 1
        self._note(deployment)
        beside = self.beside.pop(deployment.app, None)
        if beside is not None and beside.version != deployment.version:
            self._step_down(beside)
        before = self.current.get(deployment.app)
        old = {spec.key: spec.name for spec in before.functions} if before else {}
        old.update((key, self.specs[key].name) for key in self._instances_of(deployment.app, ""))
        self.current[deployment.app] = replace(deployment, current=True)
        keys = {spec.key for spec in deployment.functions}
        for key in keys:
            self.outdated.pop(key, None)
        replaced = []
        for key, name in old.items():
            if key not in keys:
                self.outdated[key] = (deployment.app, name)
                self._drop_variant(deployment.app, key)
                if deployment.tags.get(STRATEGY) != RECREATE:
                    replaced.append(key)
                else:
                    self.retire(key)
        for spec in deployment.functions:  # only now: with strategy=recreate it waits for those before it
            self.declare(spec)
        for key in self._instances_of(deployment.app, "") if beside is not None else ():
            self.declare(self.specs[key])  # of a version that stood beside, and does no more
        if deployment.tags.get(STRATEGY) == RECREATE and before is not None:
            replaced = [spec.key for spec in before.functions if spec.key not in keys]  # so that it is told
        successors = {key: self._successor(before, key) for key in replaced}
        for key in sorted(replaced, key=lambda key: not successors[key]):  # what has none may be called by what goes on
            if successors[key] or not self._goes_on(key):
                self.retire(key, by=successors[key], same_as=same_as)
            else:
                self.lingering.setdefault(deployment.app, {})[key] = old[key]
        self.end_lingering()

    def _successor(self, before: Deployment | None, key: str) -> str:
        """Return the pool that takes the place of one of the version before; empty where none does.

        That of a class with other parameters is made where the one before is in use: nobody may ever ask for it again.
        """
        if before is None or all(spec.key != key for spec in before.functions):
            found = self.newest(key) if self.is_used(key) else key
            return "" if found == key else found
        app, name = self.outdated[key]
        spec = self.specs.get(self._deployed(app).get(name, ""))
        return spec.key if spec is not None and not spec.is_template else ""

    def stand_beside(self, rollout: Rollout, deployment: Deployment) -> None:
        """Have a version stand beside the current one, in place of another that did, or with another share."""
        self.generation += 1
        self.rollouts[rollout.app] = rollout
        before = self.beside.get(rollout.app)
        if before is not None and before.version == deployment.version:
            before.rollout = rollout
        else:
            self.beside[rollout.app] = Beside(rollout, deployment)
            if before is not None:
                self._step_down(before)
        self._note(deployment)
        for spec in deployment.functions:
            self.declare(spec)
        self._declare_current(rollout.app)

    def step_down(self, rollout: Rollout) -> list[str]:
        """Have a version stand beside the current one no more: its pools drain; return their keys."""
        self.generation += 1
        self.rollouts[rollout.app] = rollout
        beside = self.beside.pop(rollout.app, None)
        keys = self._step_down(beside) if beside is not None else []
        self._declare_current(rollout.app)
        return keys

    def _step_down(self, beside: Beside) -> list[str]:
        app = beside.rollout.app
        keys = {spec.key: spec.name for spec in beside.deployment.functions}
        keys.update((key, self.specs[key].name) for key in self._instances(app, keys.keys()))
        for key, name in keys.items():
            self.outdated[key] = (app, name)
            self._drop_variant(app, key)
            self.retire(key)
        return [*keys]

    def _declare_current(self, app: str) -> None:
        """Have the core know whether the calls of an app's current version are divided."""
        current = self.current.get(app)
        for spec in current.functions if current is not None else ():
            self.declare(spec)
        for key in self._instances_of(app, "") if current is not None else ():
            self.declare(self.specs[key])

    def counterpart(self, key: str, beside: Beside) -> str:
        """Return the pool of the version beside that does what this one of the current version does; empty for none.

        What was made with other options stays what it is. A class's instance has one where the class takes its
        parameters.
        """
        if key in beside.pairs:
            return beside.pairs[key]
        spec, found = self.specs.get(key), ""
        base = self.specs.get(self._deployed(beside.rollout.app).get(spec.name, "")) if spec is not None else None
        other = beside.find(spec.name) if spec is not None else None
        if spec is not None and base is not None and other is not None and other.kind == spec.kind:
            if key == base.key:
                found = other.key
            elif replace(spec, parameters=base.parameters) == base:
                found = self._configured(other.key, as_in=key)
        beside.pairs[key] = "" if found == key else found
        return beside.pairs[key]

    def restored_as(self, key: str) -> str:
        """Return the pool for a call of an earlier term: of a version that could not run, the current one's."""
        app, name = self.outdated.get(key, ("", ""))
        rollout = self.rollouts.get(app)
        spec = self.ensure(key) if rollout is not None and rollout.state == FAILED and name else None
        return self.newest(key) if rollout is not None and spec and spec.version == rollout.version else key

    def revive(self, key: str) -> str:
        """Return the pool for what is an earlier version's own: what was let in before, and what its functions call.

        One that has gone is there again. Whoever asks gives it what is for it, and lets go of it then. For a version
        that could not run it is the current one's.
        """
        key = self.restored_as(key)
        pool, spec = self.pools.get(key), self.known(key)
        if spec is not None and (pool is None or (pool.retired and self._goes_on(key))):
            self.declare(spec)
            if self._goes_on(key):
                self.lingering.setdefault(spec.app, {})[key] = spec.name
        return key

    def let_go(self, key: str) -> None:
        """Have a pool that was revived go once that is done, unless it lingers."""
        spec, pool = self.specs.get(key), self.pools.get(key)
        if spec is None or key not in self.outdated or key in self.lingering.get(spec.app, {}):
            return
        if pool is None or not pool.goes_on_for:
            self.retire(key)

    def _goes_on(self, key: str) -> bool:
        """Tell whether any function of this one's version answers because the next version is not ready."""
        spec = self.specs[key]
        return self._version_goes_on(spec.app, spec.version, run_id=spec.run_id)

    def _version_goes_on(self, app: str, version: int, *, run_id: str = "") -> bool:
        same = (pool.spec for pool in self.pools.values() if pool.goes_on_for)
        return any((one.app, one.version, one.run_id) == (app, version, run_id) for one in same)

    def end_lingering(self) -> None:
        """Retire what has lingered for versions that go on no more."""
        for app, keys in [*self.lingering.items()]:
            over = [key for key in keys if key not in self.specs or not self._goes_on(key)]
            for key in over:
                del keys[key]
            if not keys:
                del self.lingering[app]
            for key in over:
                self.generation += 1
                self.retire(key)

    def before(self, key: str) -> FunctionSpec | None:
        """Return the function of the version before that answers until this one is ready; None where none does."""
        pool = self.pools.get(key)
        return self.specs.get(pool.awaits) if pool is not None and pool.awaits else None

    def outdated_pools(self) -> list[e.Event]:
        """Return the events that let pools of earlier versions drain: they are there for what an earlier term left.

        Not those that go on because the current version is not ready.
        """
        lingering = {key for keys in self.lingering.values() for key in keys}
        found = (key for key in self.outdated if key in self.specs and key not in lingering)
        return [e.FunctionRetired(key) for key in found if key not in self.pools or not self.pools[key].goes_on_for]

    def undeployed(self, app: str) -> None:
        self.generation += 1
        beside = self.beside.pop(app, None)
        if beside is not None:
            self._step_down(beside)
        self.rollouts.pop(app, None)
        instances = self._instances_of(app, "")
        before = self.current.pop(app, None)
        for key in [*(spec.key for spec in before.functions), *instances] if before else []:
            self._drop_variant(app, key)
            self.retire(key)
        self.end_lingering()

    def _drop_variant(self, app: str, key: str) -> None:
        """Forget that somebody has made something of a deployed function."""
        self.variants.get((app, ""), set()).discard(key)
        names = self.runs.get((app, ""), {})
        for name in [name for name, one in names.items() if one == key]:
            del names[name]

    def name_of_served(self, app: str, run_id: str) -> str:
        """Return the name by which other programs call a run now; empty if it has none."""
        if [run_id] != self.served.get(app, [])[-1:]:
            return ""
        return app + SERVED_SUFFIX if app in self.current else app

    def newest(self, key: str) -> str:
        """Return the key to use now: of an app that was served, or deployed, anew it is of what has replaced it."""
        if key not in self.outdated and (key not in self.specs or key in self.undeclared):
            self.ensure(key)
            if key in self.outdated:
                self.retire(key)  # of an earlier term, as is who calls
        if key in self.replaced:
            app, name = self.replaced[key]
            return self._configured(self._served(app).get(name, key), as_in=key)
        if key in self.outdated:
            app, name = self.outdated[key]
            return self._configured(self._deployed(app).get(name, key), as_in=key)
        return key

    def _configured(self, key: str, *, as_in: str) -> str:
        """Return the pool of a class with the parameters that an earlier version of it was given, if it takes them."""
        spec, before = self.specs.get(key), self.specs.get(as_in)
        if spec is None or before is None or spec.kind != "class":
            return key
        types = {name: before.declared[name].type for name in before.parameters if name in before.declared}
        wanted = replace(spec, parameters={**spec.parameters, **before.parameters})
        if (
            wanted.is_template
            or {name: wanted.declared[name].type for name in types if name in wanted.declared} != types
        ):
            return as_in
        if wanted.key != key and not self._is_held(wanted):
            self.register([wanted], app=spec.app, run_id=spec.run_id)
        return wanted.key

    def _is_held(self, spec: FunctionSpec) -> bool:
        """Tell whether a program of this term has a pool, or has made it of what is deployed."""
        run = (spec.app, spec.run_id)
        return spec.key in self.runs.get(run, {}).values() or spec.key in self.variants.get(run, ())

    def _served(self, app: str) -> dict[str, str]:
        """Return the functions, by name, of the app that is served under this name."""
        owner = app if self.served.get(app) else app.removesuffix(SERVED_SUFFIX)
        runs = self.served.get(owner)
        return self.runs.get((owner, runs[-1]), {}) if runs else {}

    def lookup(
        self, app: str, name: str, run_id: str, *, version: int = 0, history: Sequence[Deployment] = ()
    ) -> FunctionSpec:
        """Return the function of a run, of a version in the app's ``history``, the current one, or of what is served.

        Raises:
            NotFound: there is none; the message lists what there is.
        """
        keys = self.runs.get((app, run_id), {}) if run_id else {}
        if name in keys:
            return self.specs[keys[name]]
        deployment = self.current.get(app)
        served = self._served(app) if deployment is None and not version else {}
        if served:
            if name not in served:
                raise NotFound(
                    f"App {app!r}, which is being served, has no function {name!r}. It has: {_listed(served)}."
                    f"{_near(name, served)}"
                )
            return self.specs[served[name]]
        if version:
            deployment = next((d for d in history if d.version == version), None)
        if deployment is None:
            known = self.apps()
            hint = _near(app, known) if not version else ""
            which = f"version {version} of app {app!r}" if version else f"app {app!r}"
            raise NotFound(
                f"There is no deployed {which}.{hint} Deployed or served apps: {_listed(known)}. Deploy it by "
                "`stoker deploy <file>` (or `stoker serve <file>`)."
            )
        beside = self.beside.get(app) if not version else None
        lingering = [self.specs[key] for key in self.lingering.get(app, ())] if not version else []
        # What only the version beside has, or one that goes on, is that one's: nothing else could answer.
        for spec in [
            *deployment.functions,
            *(beside.deployment.functions if beside is not None else ()),
            *lingering,
        ]:
            if spec.name == name:
                self.declare(spec)
                return spec
        names = {spec.name for spec in deployment.functions}
        raise NotFound(
            f"App {app!r} (version {deployment.version}) has no function {name!r}. It has: {_listed(names)}."
            f"{_near(name, names)}"
        )

    def names_of(self, app: str) -> list[str] | None:
        """Return the functions of an app that is deployed, or served, under this name; None where there is none."""
        deployment = self.current.get(app)
        if deployment is not None:
            beside = self.beside.get(app)
            more = [spec.name for spec in beside.deployment.functions] if beside is not None else []
            more += self.lingering.get(app, {}).values()
            return [*dict.fromkeys([*(spec.name for spec in deployment.functions), *more])]
        return [*self._served(app)] or None

    def app_of(self, name: str) -> str:
        """Return the app that is found by this name: a served one has another beside a deployed one."""
        return name.removesuffix(SERVED_SUFFIX) if name not in self.current and self._served(name) else name

    def missing(self, app: str, function: str) -> str:
        """Say what there is none of yet of an app and a function; empty where both are there."""
        names = self.names_of(app)
        if names is None:
            return f"No app {app!r} is deployed or served here yet.{_near(app, self.apps())}"
        return (
            f"App {app!r} has no function {function!r}. It has: {_listed(names)}."
            if function not in {"", *names}
            else ""
        )

    def apps(self) -> set[str]:
        """Return the names of what is deployed or served."""
        return {*self.current, *(app for app, runs in self.served.items() if runs)}

    def in_use(self, pools: Iterable[str]) -> set[str]:
        """Return the keys of functions that runs, current deployments or pools need."""
        found = {*pools, *(spec.key for made in self._there() for spec in made.functions)}
        return found.union(*(names.values() for names in self.runs.values()), *self.variants.values())

    def forget(self, keys: Iterable[str], pools: Iterable[str]) -> None:
        """Let go of functions that the store has dropped, but for those that somebody has begun to use meanwhile."""
        in_use = self.in_use(pools)
        for key in keys:
            if key in in_use and key in self.specs:
                self.keep(self.specs[key])
            else:
                spec = self.specs.pop(key, None)
                self.undeclared.discard(key)
                self.replaced.pop(key, None)
                self.outdated.pop(key, None)
                names = self.versions.get((spec.app, spec.version), {}) if spec is not None else {}
                if spec is not None and names.get(spec.name) == key:
                    del names[spec.name]

    def declare(self, spec: FunctionSpec) -> str:
        """Have the core know a function, and return its pool's key."""
        key = spec.key
        self.specs[key] = spec
        self.undeclared.discard(key)
        if not spec.is_template:
            self.decide(e.FunctionDeclared(spec, key, *self._standing(spec)))
        return key

    def _standing(self, spec: FunctionSpec) -> tuple[str, bool, bool]:
        """Return what a function is besides, to the core: its role, whether it is divided, whether it stands alone."""
        current = self.current.get(spec.app)
        if spec.run_id or current is None:
            return "", False, False
        beside = self.beside.get(spec.app)
        if beside is not None and beside.version == spec.version:
            return beside.rollout.kind, False, False
        is_current = current.version == spec.version
        return "", is_current and beside is not None, is_current and current.tags.get(STRATEGY) == RECREATE

    def _there(self) -> list[Deployment]:
        return [*self.current.values(), *(beside.deployment for beside in self.beside.values())]

    def retire(self, key: str, *, by: str = "", same_as: int = 0) -> None:
        """Let a pool go; with ``by``, once that one, of a version that is the ``same_as`` one, is ready to take its
        place."""
        in_use = any(key in keys.values() for keys in self.runs.values())
        deployed = any(spec.key == key for d in self._there() for spec in d.functions)
        if in_use or deployed:
            return
        spec = self.specs.get(key)
        is_older = spec is not None and (spec.app, spec.version) in self.older
        self.decide(e.FunctionReplaced(key, by, same_as, is_older) if by else e.FunctionRetired(key))


def _near(name: str, names: Iterable[str]) -> str:
    found = nearest(name, names)
    return f" Did you mean {found!r}?" if found else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"

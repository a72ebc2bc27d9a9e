"""What may be called: functions of runs and of deployed versions, and the pools they have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from stoker.core import events as e
from stoker.errors import NotFound
from stoker.store.base import Deployment, Store
from stoker.types import FunctionSpec


@dataclass(slots=True)
class Functions:
    """See the module. ``decide`` takes events; ``keep`` writes a spec down, without anybody waiting."""

    store: Store
    decide: Callable[[e.Event], None]
    keep: Callable[[FunctionSpec], None]
    specs: dict[str, FunctionSpec] = field(default_factory=dict)
    runs: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)  # (app, run id) → name → key
    variants: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # (app, run id) → keys of `with_options`
    current: dict[str, Deployment] = field(default_factory=dict)

    def load(self) -> None:
        """Declare what is deployed."""
        for deployment in self.store.deployments():
            if deployment.current:
                self.current[deployment.app] = deployment
                for spec in deployment.functions:
                    self._declare(spec)

    def ensure(self, key: str) -> FunctionSpec | None:
        """Return a spec by its pool's key, from what an earlier term of this server knew if need be."""
        spec = self.specs.get(key)
        if spec is None and (spec := self.store.function(key)) is not None:
            self._declare(spec)
        return spec

    def register(self, specs: Sequence[FunctionSpec], *, app: str, run_id: str) -> dict[str, str]:
        """Take in an ephemeral app's functions; return their keys by name."""
        names = self.runs.setdefault((app, run_id), {})
        keys = {}
        for spec in specs:
            key = keys[spec.name] = self._declare(spec)
            # The first one of a name is the function; others are the same code with other options.
            if names.setdefault(spec.name, key) != key:
                self.variants.setdefault((app, run_id), set()).add(key)
            self.keep(spec)
        return keys

    def retire_run(self, app: str, run_id: str) -> None:
        """An ephemeral app has ended: its pools drain."""
        for key in {*self.runs.pop((app, run_id), {}).values(), *self.variants.pop((app, run_id), ())}:
            self._retire(key)

    def retire_unclaimed(self) -> None:
        """Let go of runs of an earlier term of this server whose programs have not come back."""
        for key, spec in self.specs.items():
            if spec.run_id and key not in self.variants.get((spec.app, spec.run_id), ()):
                self._retire(key)

    def deployed(self, deployment: Deployment) -> None:
        """Make this version the current one; the pools of the one before drain."""
        before = self.current.get(deployment.app)
        self.current[deployment.app] = replace(deployment, current=True)
        keys = {self._declare(spec) for spec in deployment.functions}
        for spec in before.functions if before else ():
            if spec.key not in keys:
                self._retire(spec.key)

    def undeployed(self, app: str) -> None:
        before = self.current.pop(app, None)
        for spec in before.functions if before else ():
            self._retire(spec.key)

    def lookup(self, app: str, name: str, run_id: str, version: int) -> FunctionSpec:
        """Return the function of a run, of a version, or of the current version.

        Raises:
            NotFound: there is none; the message lists what there is.
        """
        keys = self.runs.get((app, run_id), {}) if run_id else {}
        if name in keys:
            return self.specs[keys[name]]
        deployment = self.current.get(app)
        if version:
            deployment = next((d for d in self.store.deployments(app=app) if d.version == version), None)
        if deployment is None:
            known = ", ".join(sorted(self.current)) or "none"
            which = f"version {version} of app {app!r}" if version else f"app {app!r}"
            raise NotFound(
                f"There is no deployed {which}. Deployed apps: {known}. Deploy it with `stoker deploy <file>`."
            )
        for spec in deployment.functions:
            if spec.name == name:
                self._declare(spec)
                return spec
        names = ", ".join(sorted(spec.name for spec in deployment.functions))
        raise NotFound(f"App {app!r} (version {deployment.version}) has no function {name!r}. It has: {names}.")

    def _declare(self, spec: FunctionSpec) -> str:
        key = spec.key
        self.specs[key] = spec
        self.decide(e.FunctionDeclared(spec, key))
        return key

    def _retire(self, key: str) -> None:
        in_use = any(key in keys.values() for keys in self.runs.values())
        deployed = any(spec.key == key for d in self.current.values() for spec in d.functions)
        if not in_use and not deployed:
            self.decide(e.FunctionRetired(key))

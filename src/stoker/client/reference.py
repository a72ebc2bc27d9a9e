"""What the handles of functions and of classes have in common: by which pool of which server they are run."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from stoker.client import session as sessions
from stoker.client.options import FunctionOptions
from stoker.client.registration import register
from stoker.client.session import Session
from stoker.errors import InvalidRequest, NotRunning
from stoker.protocol.structure import structured
from stoker.transport.current import APP_VARIABLE, RUN_ID_VARIABLE
from stoker.types import FunctionSpec, MethodSpec, OptionsSpec

if TYPE_CHECKING:
    from stoker.client.app import App


class Shape(NamedTuple):
    """What kind of function it is: ``generator`` yields, ``is_async`` is a coroutine function or async generator."""

    generator: bool = False
    is_async: bool = False

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Shape:
        plain = inspect.unwrap(function)
        return cls(
            generator=inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain),
            is_async=inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain),
        )

    @classmethod
    def told(cls, spec: FunctionSpec | MethodSpec) -> Shape:
        return cls(spec.kind == "generator", spec.is_async)


class Target(NamedTuple):
    """Where a handle's calls go, for one session and one run of its app; ``deadline`` where it is known here.

    ``methods`` are those of a class.
    """

    session: Session
    run: object
    key: str
    shape: Shape = Shape()
    deadline: float | None = None
    methods: Mapping[str, MethodSpec] = {}


class Reference:
    """A name in an app, and what is known of it here: the code, or nothing but the name."""

    _kind = "function"
    _by_name = "stoker.Function.from_name"

    def __init__(
        self,
        raw: Any,
        *,
        app: App | None,
        app_name: str,
        name: str,
        options: FunctionOptions | None = None,
        changed: dict[str, Any] | None = None,
        run_id: str | None = None,
        key: str = "",
    ) -> None:
        self._raw_f = raw
        self._app = app
        self.app_name = app_name
        self.name = name
        self._options = options or FunctionOptions()
        self._changed = changed or {}
        self._run_id = run_id  # of the program a reference came from
        self._key = key
        self._target: Target | None = None

    @property
    def label(self) -> str:
        """What people read: ``digits.accuracy``."""
        return f"{self.app_name}.{self.name}"

    @property
    def app(self) -> App | None:
        """The app it belongs to; None for a reference."""
        return self._app

    @property
    def options(self) -> FunctionOptions:
        """The options as stated, without the app's defaults."""
        return self._options

    def target(self) -> Target:
        """Return where calls go now.

        Raises:
            NotRunning: its app is neither running here nor deployed; says what to do.
            NotFound: no such function is deployed.
        """
        found = self._target
        run = self._app.current_run if self._app is not None else None
        if found is not None and found.run is run and found.session.usable:
            return found
        self._target = found = self._find_target(run)
        return found

    def spec_fields(self) -> dict[str, Any]:
        """Return what its spec says of the code itself."""
        raise NotImplementedError

    def spec_options(self, options: FunctionOptions) -> OptionsSpec:
        """Return options, with an app's defaults, as they travel."""
        raise NotImplementedError

    def _find_target(self, run: object) -> Target:
        app = self._app
        if app is not None and app.current_run is not None:
            session, key = app.key_of(self)
            return self._own_target(session, run, key)._replace(deadline=self._options.to_spec().deadline)
        if self._key and not self._changed:
            return self._own_target(sessions.current(), run, self._key)
        if app is not None and APP_VARIABLE not in os.environ and app.deployed_version:
            raise NotRunning(
                f"{self.label} is deployed, in version {app.deployed_version}, and what is deployed is called by its "
                f"name: {self._by_name}({app.name!r}, {self.name!r}). To run it for this program alone, wrap the "
                f"call in `with app.run():`. {self._here}"
            )
        if app is not None and APP_VARIABLE not in os.environ:
            raise NotRunning(
                f"{self.label} cannot be called remotely: its app is not running. Wrap the call in `with app.run():`, "
                f"where `app` is your App({app.name!r}), or put it into a function under `@app.local_entrypoint()`, "
                f"which `stoker run <file>` calls, or deploy the app and use "
                f"{self._by_name}({app.name!r}, {self.name!r}). {self._here}"
            )
        return self._look_up(run)

    @property
    def _here(self) -> str:
        return f"{self.name}.local(…) runs it here."

    def _own_target(self, session: Session, run: object, key: str) -> Target:
        """Return a target of which only the key was told."""
        return Target(session, run, key, Shape.of(self._raw_f) if self._raw_f is not None else Shape())

    def _look_up(self, run: object) -> Target:
        """Ask the server for the function by name: within a worker, of the run that the worker belongs to."""
        session = sessions.lasting("deployed apps")
        spec, key = self._ask(session)
        wanted = self._varied(spec)
        if wanted != spec:
            key = register(session, app=spec.app, run_id=spec.run_id, specs=[wanted])[self.name]
        return Target(session, run, key, Shape.told(spec), wanted.options.deadline, wanted.methods)

    def _ask(self, session: Session) -> tuple[FunctionSpec, str]:
        params = {"app": self.app_name, "name": self.name, "run_id": self._lookup_run_id()}
        answer = session.request_kept("deployed apps", "lookup", params)
        spec = structured(FunctionSpec, answer["spec"])
        if (spec.kind == "class") != (self._kind == "class"):
            raise InvalidRequest(_other_kind(self.app_name, self.name, spec))
        return spec, str(answer["key"])

    def _varied(self, spec: FunctionSpec) -> FunctionSpec:
        """Return the variant of what was found that is wanted."""
        if not self._changed:
            return spec
        if "image" in self._changed:
            raise InvalidRequest(
                f"{self.label} is known by name only, so its image cannot be changed here: use with_options(image=…) "
                f"where the {self._kind} is defined."
            )
        resolved = FunctionOptions.of(self._changed).to_spec()
        options = dataclasses.replace(spec.options, **{name: getattr(resolved, name) for name in self._changed})
        return dataclasses.replace(spec, options=options)

    def _lookup_run_id(self) -> str:
        if self._run_id is not None:
            return self._run_id
        if os.environ.get(APP_VARIABLE) == self.app_name:
            return os.environ.get(RUN_ID_VARIABLE, "")
        return ""


def _other_kind(app: str, name: str, spec: FunctionSpec) -> str:
    if spec.kind != "class":
        return f"{app}.{name} is a function, not a class: use stoker.Function.from_name({app!r}, {name!r})."
    method = next(iter(spec.methods), "method")
    return (
        f"{app}.{name} is a class, not a function: use stoker.Cls.from_name({app!r}, {name!r}), and call one of its "
        f"methods: …(…).{method}.remote(…)."
    )

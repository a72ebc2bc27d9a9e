"""`App`: a named set of functions that is run, or deployed, together."""

from __future__ import annotations

import inspect
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar, overload
from weakref import WeakValueDictionary

from stoker.client import notices
from stoker.client import session as sessions
from stoker.client.frames import trimmed
from stoker.client.function import Function, Shape
from stoker.client.ids import stamped_id
from stoker.client.image import Image
from stoker.client.options import FunctionOptions
from stoker.client.registration import Shipment, check_python, register, ship
from stoker.client.session import Session
from stoker.client.web import web_spec
from stoker.errors import InvalidRequest, StokerError
from stoker.protocol.payload import set_main_alias, set_main_by_value
from stoker.types import FunctionSpec

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, Unpack

    from stoker.client.options import Options
else:
    from typing import ParamSpec

P = ParamSpec("P")
R = TypeVar("R")

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_defined: WeakValueDictionary[str, App] = WeakValueDictionary()


class FunctionDecorator(Protocol):
    """What ``@app.function(…)`` returns."""

    def __call__(self, function: Callable[P, R], /) -> Function[P, R]: ...


class EntrypointDecorator(Protocol):
    """What ``@app.local_entrypoint()`` returns."""

    def __call__(self, function: Callable[P, R], /) -> LocalEntrypoint[P, R]: ...


class LocalEntrypoint(Generic[P, R]):
    """A function that `stoker run` calls here, its parameters made command-line options."""

    def __init__(self, function: Callable[P, R], *, app: App, name: str) -> None:
        self.raw_f = function
        self.app = app
        self.name = name
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.raw_f(*args, **kwargs)


class _Functions(dict[str, "Function[..., Any]"]):
    """An app's functions by name."""

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("app.functions is the dict of an app's functions. The decorator is @app.function(…).")


@dataclass
class Run:
    """One run of an app: what it registered, under an id of its own. It ends when its last holder leaves.

    While a ``served`` one lasts, other programs find its functions by name.
    """

    session: Session
    run_id: str
    served: bool = False
    holders: int = 0
    keys: dict[int, str] = field(default_factory=dict)  # by id() of the handle, which `handles` keeps alive
    handles: list[Function[..., Any]] = field(default_factory=list)
    shipment: Shipment = field(default_factory=Shipment)


class App:
    """A named set of functions; ``image``, ``env`` and ``tags`` are defaults for them.

    ``include_source=False`` ships no source: the functions' modules must be importable in their images.

    Raises:
        InvalidRequest: the name is no name.
    """

    def __init__(
        self,
        name: str,
        *,
        image: Image | None = None,
        env: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        include_source: bool = True,
    ) -> None:
        self.name = _checked_name(name, "An app's name")
        self._defaults = FunctionOptions(image=image, env=env or {}, tags=tags or {})
        self._include_source = include_source
        self.functions: dict[str, Function[..., Any]] = _Functions()
        self.registered_entrypoints: dict[str, LocalEntrypoint[..., Any]] = {}
        self.current_run: Run | None = None
        self.deployed_anew = False  # the last `deploy` has made a version
        self.urls: dict[str, str] = {}  # where the last `deploy` has put its endpoints, by function
        self._lock = threading.RLock()
        _defined[self.name] = self

    @property
    def image(self) -> Image | None:
        """The default image of its functions."""
        return self._defaults.image

    @property
    def run_id(self) -> str:
        """The id of the run under way; empty when there is none."""
        return self.current_run.run_id if self.current_run is not None else ""

    @overload
    def function(self, function: Callable[P, R], /) -> Function[P, R]: ...
    @overload
    def function(self, /, *, name: str = ..., **options: Unpack[Options]) -> FunctionDecorator: ...
    def function(self, function: Any = None, /, *, name: str = "", **options: Any) -> Any:
        """Make a function one that runs elsewhere; with or without parentheses.

        `FunctionOptions` says what each option means.

        Raises:
            InvalidOption: an option is unknown or malformed.
            InvalidRequest: it is no function, or the name is taken.
        """
        checked = FunctionOptions.of(options)
        if function is not None:
            return self._add_function(function, checked, name)
        return lambda given: self._add_function(given, checked, name)

    @overload
    def local_entrypoint(self, function: Callable[P, R], /) -> LocalEntrypoint[P, R]: ...
    @overload
    def local_entrypoint(self, /, *, name: str = ...) -> EntrypointDecorator: ...
    def local_entrypoint(self, function: Any = None, /, *, name: str = "") -> Any:
        """Make a function the one that `stoker run` calls, here, while the app runs."""
        if function is not None:
            return self._add_entrypoint(function, name)
        return lambda given: self._add_entrypoint(given, name)

    def run(self, *, show_progress: bool | None = None) -> AppRun:
        """Run the app while a ``with`` (or ``async with``) block lasts: its functions can be called remotely in it.

        ``show_progress`` turns the bars of maps on or off.
        """
        return AppRun(self, show_progress)

    def serve(self) -> AppRun:
        """Run the app while a ``with`` block lasts, and let other programs call its functions by name meanwhile.

        They use ``Function.from_name(app, name)``; where an app of that name is deployed, the one that is served is
        found by ``<app>-dev``. It takes a persistent server that both sides use; `stoker serve` sees to that.
        """
        return AppRun(self, None, served=True)

    def deploy(self, *, tags: Mapping[str, str] | None = None) -> int:
        """Deploy the app's functions to the persistent server and return the version.

        Where they are what is deployed already, that is the current version, and no new one is made.

        Raises:
            ConnectionFailed: there is no persistent server.
        """
        if not self.functions:
            raise InvalidRequest(f"The app {self.name!r} has no functions to deploy.")
        session = sessions.require_persistent()
        shipment = Shipment(self._include_source, session.freezes)
        specs = [self._spec_of(function, shipment, run_id="") for function in self.functions.values()]
        ship(session, shipment.blobs)
        params = {"app": self.name, "functions": [asdict(spec) for spec in specs], "tags": dict(tags or {})}
        answer = session.request("deploy", params)
        self.deployed_anew = not answer.get("unchanged", False)
        self.urls = dict(answer.get("urls", {}))
        return int(answer["version"])

    def undeploy(self) -> None:
        """Remove the deployed app; calls that were accepted are finished."""
        sessions.require_persistent().request("undeploy", {"app": self.name})

    def key_of(self, function: Function[..., Any]) -> tuple[Session, str]:
        """Return the session and the pool of one of the run's functions; one defined since its start is registered."""
        with self._lock:
            run = self.current_run
            if run is None:
                raise InvalidRequest(f"The app {self.name!r} has stopped running.")
            if run.session.failed or run.session is not sessions.current_if_open():
                self._move(run, sessions.current())
            if id(function) not in run.keys:
                self._register(run, [function])
            return run.session, run.keys[id(function)]

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_app, (self.name,)

    def __repr__(self) -> str:
        return f"<App {self.name!r}, {len(self.functions)} function(s)>"

    def _add_function(self, function: Any, options: FunctionOptions, name: str) -> Function[..., Any]:
        _check_function(function)
        chosen = _checked_name(name or _name_of(function), "A function's name")
        taken = self.functions.get(chosen)
        if taken is not None and not _is_redefinition(taken.raw_f, function):
            raise InvalidRequest(
                f"The app {self.name!r} has a function {chosen!r} already ({_place(taken.raw_f)}). Give this one "
                f"({_place(function)}) another name, by @app.function(name=…)."
            )
        found: Function[..., Any] = Function(function, app=self, app_name=self.name, name=chosen, options=options)
        self.functions[chosen] = found
        return found

    def _add_entrypoint(self, function: Any, name: str) -> LocalEntrypoint[..., Any]:
        if not inspect.isfunction(function):
            raise InvalidRequest(f"@app.local_entrypoint() takes a function, not {function!r}.")
        found: LocalEntrypoint[..., Any] = LocalEntrypoint(function, app=self, name=name or function.__name__)
        self.registered_entrypoints[found.name] = found
        return found

    def _enter(self, *, served: bool = False) -> Run:
        with self._lock:
            if self.current_run is None:
                session = sessions.current()
                shipment = Shipment(self._include_source, session.freezes)
                run = Run(session, stamped_id("run-"), served, shipment=shipment)
                self._register(run, list(self.functions.values()))
                self.current_run = run
            self.current_run.holders += 1
            return self.current_run

    def _leave(self, run: Run) -> None:
        with self._lock:
            run.holders -= 1
            if run.holders == 0 and self.current_run is run:
                self.current_run = None
                if run.session.usable:
                    run.session.tell("end_run", {"app": self.name, "run_id": run.run_id})

    def _register(self, run: Run, functions: list[Function[..., Any]]) -> None:
        _settle_main()
        specs = [self._spec_of(function, run.shipment, run_id=run.run_id) for function in functions]
        if not specs:
            return
        ship(run.session, run.shipment.blobs)
        run.shipment.blobs.clear()
        keys = register(run.session, app=self.name, run_id=run.run_id, specs=specs, served=run.served)
        for function, spec in zip(functions, specs, strict=True):
            run.handles.append(function)
            run.keys[id(function)] = keys[spec.name]

    def _move(self, run: Run, session: Session) -> None:
        """Go on with another session: this is a forked child, or the server was gone for good."""
        handles, run.handles, run.keys = run.handles, [], {}
        run.session, run.shipment = session, Shipment(self._include_source, session.freezes)
        self._register(run, handles)

    def _spec_of(self, function: Function[..., Any], shipment: Shipment, *, run_id: str) -> FunctionSpec:
        options = function.options.over(image=self._defaults.image, env=self._defaults.env, tags=self._defaults.tags)
        shape = Shape.of(function.raw_f)
        image = shipment.image(options.image if options.image is not None else Image.local())
        code = shipment.code_ref(function.raw_f)
        check_python(function.raw_f, code, image)
        return FunctionSpec(
            app=self.name,
            name=function.name,
            code=code,
            image=image,
            options=options.to_spec(),
            kind="generator" if shape.generator else "function",
            is_async=shape.is_async,
            run_id=run_id,
            cwd=os.getcwd(),  # noqa: PTH109 - a text
            web=web_spec(
                function.raw_f,
                label=function.label,
                streams=shape.generator,
                is_batched=options.batch is not None,
            ),
        )


class AppRun(AbstractContextManager["App"], AbstractAsyncContextManager["App"]):
    """A run of an app, for ``with`` and ``async with``."""

    def __init__(self, app: App, show_progress: bool | None, *, served: bool = False) -> None:
        self._app = app
        self._served = served
        self._show_progress = show_progress
        self._stack: list[AbstractContextManager[App]] = []
        self._async_stack: list[AbstractAsyncContextManager[App]] = []

    def __enter__(self) -> App:
        block = _running(self._app, self._show_progress, served=self._served)
        try:
            app = block.__enter__()
        except StokerError as error:
            raise trimmed(error)  # noqa: B904 - its own cause and context stay
        self._stack.append(block)
        return app

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.pop().__exit__(kind, error, trace)

    async def __aenter__(self) -> App:
        block = _running_async(self._app, self._show_progress, served=self._served)
        app = await block.__aenter__()
        self._async_stack.append(block)
        return app

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._async_stack.pop().__aexit__(kind, error, trace)


@contextmanager
def _running(app: App, show_progress: bool | None, *, served: bool = False) -> Iterator[App]:
    before = notices.screen.show_progress
    if show_progress is not None:
        notices.screen.show_progress = show_progress
    try:
        with sessions.held():
            run = app._enter(served=served)
            try:
                yield app
            finally:
                app._leave(run)
    finally:
        notices.screen.show_progress = before


@asynccontextmanager
async def _running_async(app: App, show_progress: bool | None, *, served: bool) -> AsyncIterator[App]:
    import asyncio

    block = _running(app, show_progress, served=served)
    await asyncio.to_thread(block.__enter__)
    try:
        yield app
    finally:
        await asyncio.to_thread(block.__exit__, None, None, None)


def find_function(app_name: str, name: str) -> Function[..., Any] | None:
    """Return a function that is defined in this process."""
    app = _defined.get(app_name)
    return app.functions.get(name) if app is not None else None


def _restore_app(name: str) -> App:
    return _defined.get(name) or App(name)


def _settle_main() -> None:
    """Say how what is defined in ``__main__`` travels: by its script's name, or by value where there is no script."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if main is None or not file or not os.path.isfile(file):  # noqa: PTH113 - a text, once a run
        set_main_by_value(True)
        return
    spec = getattr(main, "__spec__", None)
    set_main_alias(spec.name if spec is not None else os.path.splitext(os.path.basename(file))[0])  # noqa: PTH122, PTH119


def _checked_name(name: Any, what: str) -> str:
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise InvalidRequest(
        f"{what} cannot be {name!r}: it has 1 to 64 letters, digits, '.', '_' and '-', with a letter or digit at both "
        "ends."
    )


def _name_of(function: Callable[..., Any]) -> str:
    name = function.__qualname__.rpartition("<locals>.")[2]
    return "lambda" if name == "<lambda>" else name.strip("_") or name


def _check_function(function: Any) -> None:
    if isinstance(function, type):
        raise InvalidRequest(
            f"@app.function takes a function; {function.__name__} is a class. Classes come with stoker.cls in a later "
            "version: until then, make a function of what it does."
        )
    if isinstance(function, Function):
        raise InvalidRequest(
            f"{function.label} is decorated already. Use {function.name}.with_options(…) for another pool of the same "
            "code."
        )
    if isinstance(function, (staticmethod, classmethod)) or not inspect.isfunction(inspect.unwrap(function)):
        raise InvalidRequest(f"@app.function takes a function that is written in Python, not {function!r}.")
    own_name = inspect.unwrap(function).__qualname__.rpartition("<locals>.")[2]
    if "." in own_name:
        raise InvalidRequest(
            f"{own_name} is a method: write a function at module level (classes come in a later version)."
        )


def _is_redefinition(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Tell whether a notebook's cell, or a reloaded module, defines the same function again."""
    same = old.__module__ == new.__module__ and old.__qualname__ == new.__qualname__
    return same and (old.__module__ == "__main__" or old.__code__.co_firstlineno == new.__code__.co_firstlineno)


def _place(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else function.__module__

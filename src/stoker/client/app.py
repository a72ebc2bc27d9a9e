"""`App`: a named set of functions that is run, or deployed, together."""

from __future__ import annotations

import inspect
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar, overload
from weakref import WeakValueDictionary

from stoker.client import notices
from stoker.client import session as sessions
from stoker.client.at_import import check_not_at_import
from stoker.client.classes import Cls, Configured, check_options
from stoker.client.deploy_warnings import (
    in_own,
    of_gone,
    of_not_ready,
    of_own_environment,
    of_replaced,
    of_untried,
)
from stoker.client.frames import trimmed
from stoker.client.function import Function
from stoker.client.ids import stamped_id
from stoker.client.image import Image
from stoker.client.lifecycle import check_no_method, parameter
from stoker.client.names import fields_checked, names_checked
from stoker.client.options import FunctionOptions
from stoker.client.registration import Shipment, check_python, end_run, register, ship, travels_by_value
from stoker.client.seen_versions import seen_versions
from stoker.client.session import Session
from stoker.client.web import web_app_of
from stoker.errors import InvalidOption, InvalidRequest, StokerError
from stoker.protocol.payload import set_main_alias, set_main_by_value
from stoker.types import FunctionSpec

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import ParamSpec, Unpack, dataclass_transform

    from stoker.client.batches import Batch
    from stoker.client.options import Options, PlainOptions

    Handle: TypeAlias = "Function[..., Any] | Cls[Any] | Configured"  # of what is registered
else:
    from typing import ParamSpec

    def dataclass_transform(**_: Any) -> Callable[[Any], Any]:
        return lambda function: function


P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")
T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
STRATEGIES = ("rolling", "recreate")
_defined: WeakValueDictionary[str, App] = WeakValueDictionary()


class Plan(NamedTuple):
    """What is to be deployed of an app: its functions, and the blobs that these name, by digest."""

    functions: Sequence[FunctionSpec]
    blobs: Mapping[str, bytes]


class FunctionDecorator(Protocol):
    """What ``@app.function(…)`` returns."""

    def __call__(self, function: Callable[P, R], /) -> Function[P, R]: ...


class ClsDecorator(Protocol):
    """What ``@app.cls(…)`` returns. To a type checker the class stays itself: its instances have the same methods."""

    def __call__(self, kind: type[T], /) -> type[T]: ...


class BatchDecorator(Protocol):
    """What ``@app.function(batch=…)`` returns: who calls the function gives one item, and has one result."""

    @overload
    def __call__(
        self, function: Callable[[list[A]], Coroutine[Any, Any, Sequence[T]]], /
    ) -> Function[[A], Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, function: Callable[[list[A]], Sequence[T]], /) -> Function[[A], T]: ...
    @overload
    def __call__(self, function: Callable[[list[A], list[B]], Sequence[T]], /) -> Function[[A, B], T]: ...
    @overload
    def __call__(self, function: Callable[..., Any], /) -> Function[..., Any]: ...


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


class _Functions(dict[str, "Function[..., Any] | Cls[Any]"]):
    """An app's functions and classes by name."""

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
    handles: list[Handle] = field(default_factory=list)
    shipment: Shipment = field(default_factory=Shipment)


@fields_checked
class App:
    """A named set of functions; ``image``, ``env`` and ``tags`` are defaults for them.

    ``include_source=False`` ships no source: the functions' modules must be importable in their images.

    ``strategy`` says how a deployed version takes the place of the one before. With ``"rolling"`` the new one's workers
    start while the old one's finish what they run; with ``"recreate"`` the old one's end first, and calls wait
    meanwhile: for models of which only one copy fits.

    Raises:
        InvalidRequest: the name is no name.
        InvalidOption: the strategy is none.
    """

    def __init__(
        self,
        name: str,
        *,
        image: Image | None = None,
        env: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        include_source: bool = True,
        strategy: str = "rolling",
    ) -> None:
        self.name = _checked_name(name, "An app's name")
        self._strategy = _checked_strategy(strategy)
        self._defaults = FunctionOptions(image=image, env=env or {}, tags=tags or {})
        self._include_source = include_source
        self.functions: dict[str, Function[..., Any] | Cls[Any]] = _Functions()
        self.registered_entrypoints: dict[str, LocalEntrypoint[..., Any]] = {}
        self.current_run: Run | None = None
        self.deployed_version = 0  # of the last `deploy`
        self.deployed_anew = False  # that has made a version
        self.urls: dict[str, str] = {}  # where the last `deploy` has put its endpoints, by function
        self.no_http = ""  # why they are at none, where the server has no door for HTTP
        self.not_ready: dict[str, str] = {}  # functions of the last `deploy` that do not start yet, and why
        self.goes_on: dict[str, int] = {}  # the version that goes on in the place of those, where there is one
        self.gone: list[str] = []  # functions, and methods, that the version before had, and the last `deploy` has not
        self.replaced_by: int | None = (
            None  # the version that took its place before it was ready; 0: the app was stopped
        )
        self.untried: dict[str, str] = {}  # those that took over before it was seen that they start, and why
        self.ended: dict[str, Any] | None = None  # the canary, or shadow, that was ended by the last `deploy`
        self.beside: dict[str, Any] | None = None  # what the version of the last `deploy` is beside the current one
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
    def function(self, /, *, name: str = ..., batch: Batch, **options: Unpack[PlainOptions]) -> BatchDecorator: ...
    @overload
    def function(
        self, /, *, name: str = ..., batch: None = ..., **options: Unpack[PlainOptions]
    ) -> FunctionDecorator: ...
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
        is_told = "concurrency" in options
        return lambda given: self._add_function(given, checked if is_told else _for_web(given, checked), name)

    @overload
    @dataclass_transform(kw_only_default=True, field_specifiers=(parameter,))
    def cls(self, kind: type[T], /) -> type[T]: ...
    @overload
    @dataclass_transform(kw_only_default=True, field_specifiers=(parameter,))
    def cls(self, /, *, name: str = ..., **options: Unpack[Options]) -> ClsDecorator: ...
    def cls(self, kind: Any = None, /, *, name: str = "", **options: Any) -> Any:
        """Make a class one whose methods run elsewhere; with or without parentheses.

        What it becomes is a `Cls`: called with the class's parameters it gives an instance. `FunctionOptions` says what
        each option means.

        Raises:
            InvalidOption: an option is unknown or malformed, or not for classes.
            InvalidRequest: it is no class, none that workers could make an instance of, or the name is taken.
        """
        check_options(options)
        checked = FunctionOptions.of(options)
        if kind is not None:
            return self._add_class(kind, checked, name)
        return lambda given: self._add_class(given, checked, name)

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

    @names_checked
    def deploy(
        self,
        *,
        tags: Mapping[str, str] | None = None,
        canary: float | None = None,
        shadow: float | None = None,
        strategy: str | None = None,
    ) -> int:
        """Deploy the app's functions to the persistent server and return the version.

        Where they are what is deployed already, that is the current version, and no new one is made. Where the version
        before has ever been ready, it goes on until the new one is, which is waited for here, and so are functions with
        ``min_workers``; ``app.not_ready`` says what does not start, by name, and ``app.goes_on`` which version answers
        in its place, if any. ``app.untried`` says what has taken over before a worker of it was ready, and why;
        ``app.gone`` what the version before had and this one has not. ``app.replaced_by`` is the version that has
        replaced the new one before it was ready; 0 if the app was stopped; else None. All this is printed to stderr as
        well, and which functions run in the caller's own environment.

        What is deployed is called by name, here as in any other program: `Function.from_name`, `Cls.from_name`.

        With ``canary`` the new version stands beside the current one and answers so many percent of the calls; with
        ``shadow`` so many percent of the calls are made by it as well, and compared, while the current one answers all.
        `stoker apps promote` and `stoker apps abort` end that. ``strategy`` goes before the app's own.

        Raises:
            ConnectionFailed: there is no persistent server.
            InvalidOption: a share is no percentage, or the strategy is none.
            InvalidRequest: there is no current version for a canary or a shadow to stand beside, or no room for two;
                or a worker that imports the module would deploy it again.
        """
        how = self._how(canary, shadow, strategy)  # what is wrong with it is told before anything is bundled
        plan = self.plan()
        version = self._deploy(plan, tags, how)
        self._warn_of(plan, version)
        return version

    def _warn_of(self, plan: Plan, version: int) -> None:
        """Print, to stderr, what the version's number does not say."""
        for told in (
            *of_not_ready(self.name, version, self.not_ready, self.goes_on),
            *of_replaced(self.name, version, self.replaced_by),
        ):
            notices.warn(told)
        own = of_own_environment(in_own(plan.functions), count=len(plan.functions))
        for told in (*of_gone(self.gone), *of_untried(self.untried), *own):
            notices.warn(f"{self.name}: {told}")

    def plan(self) -> Plan:
        """Return what `deploy` would deploy; nothing is sent yet."""
        if not self.functions:
            raise InvalidRequest(
                f"The app {self.name!r} has no functions to deploy. Write `@app.function()` before each that is to be "
                "one of it (or `@app.cls()` before a class), above `@stoker.endpoint()` where there is one."
            )
        handles = [function.raw_f for function in self.functions.values()]
        check_not_at_import(self.name, {one.__module__ for one in handles if not travels_by_value(one)})
        session = sessions.require_persistent()
        shipment = Shipment(self._include_source, session.freezes)
        specs = [self._spec_of(function, shipment, run_id="") for function in self.functions.values()]
        return Plan(specs, shipment.blobs)

    def deploy_planned(
        self, plan: Plan, *, canary: float | None = None, shadow: float | None = None, strategy: str | None = None
    ) -> int:
        """Deploy a plan as `deploy` does."""
        return self._deploy(plan, None, self._how(canary, shadow, strategy))

    def _how(self, canary: float | None, shadow: float | None, strategy: str | None) -> dict[str, Any]:
        """Return what the server is to be told of these options of `deploy`."""
        chosen = self._strategy if strategy is None else _checked_strategy(strategy)
        return {"strategy": chosen, **_beside(canary, shadow)}

    def _deploy(self, plan: Plan, tags: Mapping[str, str] | None, how: Mapping[str, Any]) -> int:
        session = sessions.require_persistent()
        ship(session, plan.blobs)
        params = {"app": self.name, "functions": [asdict(spec) for spec in plan.functions], "tags": dict(tags or {})}
        answer = session.request("deploy", {**params, **how})
        self.deployed_anew = not answer.get("unchanged", False)
        self.urls = dict(answer.get("urls", {}))
        self.no_http = str(answer.get("no_http", ""))
        self.beside = answer.get("beside")
        self.ended = answer.get("ended")
        self.not_ready = dict(answer.get("waits", {}))
        self.goes_on = dict(answer.get("goes_on", {}))
        self.gone = list(answer.get("gone", []))
        self.untried = dict(answer.get("untried", {}))
        self.replaced_by = answer.get("replaced_by")
        self.deployed_version = int(answer["version"])
        return self.deployed_version

    def undeploy(self) -> None:
        """Remove the deployed app; calls that were accepted are finished.

        Raises:
            NotFound: it is not deployed.
            InvalidRequest: somebody has deployed another version just now.
        """
        session = sessions.require_persistent()
        seen = seen_versions(session.request("history", {"app": self.name}))
        session.request("undeploy", {"app": self.name, "seen": seen})

    def key_of(self, function: Any) -> tuple[Session, str]:
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
        check_no_method(function, label=f"{self.name}.{chosen}")
        self._check_free(chosen, function, "function")
        found: Function[..., Any] = Function(function, app=self, app_name=self.name, name=chosen, options=options)
        self.functions[chosen] = found
        return found

    def _add_class(self, kind: Any, options: FunctionOptions, name: str) -> Cls[Any]:
        _check_type(kind)
        chosen = _checked_name(name or _name_of(kind), "A class's name")
        self._check_free(chosen, kind, "cls")
        found: Cls[Any] = Cls(kind, app=self, app_name=self.name, name=chosen, options=options)
        self.functions[chosen] = found
        return found

    def _check_free(self, name: str, given: Any, decorator: str) -> None:
        taken = self.functions.get(name)
        if taken is not None and not _is_redefinition(taken.raw_f, given):
            what = "class" if isinstance(taken, Cls) else "function"
            raise InvalidRequest(
                f"The app {self.name!r} has a {what} {name!r} already ({_place(taken.raw_f)}). Give this one "
                f"({_place(given)}) another name, by @app.{decorator}(name=…)."
            )

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
                end_run(run.session, app=self.name, run_id=run.run_id)

    def _register(self, run: Run, functions: Sequence[Handle]) -> None:
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

    def _spec_of(self, function: Handle, shipment: Shipment, *, run_id: str) -> FunctionSpec:
        options = function.options.over(image=self._defaults.image, env=self._defaults.env, tags=self._defaults.tags)
        image = shipment.image(options.image if options.image is not None else Image.local())
        code = shipment.code_ref(function.raw_f)
        check_python(function.raw_f, code, image)
        return FunctionSpec(
            app=self.name,
            name=function.name,
            code=code,
            image=image,
            options=function.spec_options(options),
            run_id=run_id,
            cwd=os.getcwd(),  # noqa: PTH109 - a text
            **function.spec_fields(),
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


def find_function(app_name: str, name: str) -> Function[..., Any] | Cls[Any] | None:
    """Return a function, or class, that is defined in this process."""
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


def _checked_strategy(strategy: Any) -> str:
    if strategy in STRATEGIES:
        return str(strategy)
    raise InvalidOption(f"strategy={strategy!r} is none. There are: {', '.join(STRATEGIES)}.")


def _beside(canary: float | None, shadow: float | None) -> dict[str, Any]:
    """Return what a new version is to be beside the current one, as the server is told."""
    if canary is not None and shadow is not None:
        raise InvalidOption("A version is a canary, which answers calls, or a shadow, which answers none: not both.")
    for kind, percent in (("canary", canary), ("shadow", shadow)):
        if percent is None:
            continue
        if isinstance(percent, bool) or not isinstance(percent, (int, float)) or not 0 <= percent <= 100:
            raise InvalidOption(f"{kind}={percent!r} is no share of the calls in percent: a number from 0 to 100.")
        return {"beside": kind, "percent": float(percent)}
    return {}


def _name_of(function: Callable[..., Any]) -> str:
    name = function.__qualname__.rpartition("<locals>.")[2]
    return "lambda" if name == "<lambda>" else name.strip("_") or name


def _for_web(function: Any, options: FunctionOptions) -> FunctionOptions:
    """Return options with the concurrency of a web app, for a function that makes one."""
    made = web_app_of(function)
    return options if made is None else options.changed({"concurrency": made.concurrency})


def _check_function(function: Any) -> None:
    if isinstance(function, type):
        raise InvalidRequest(
            f"@app.function takes a function; {function.__name__} is a class. Put @app.cls() before it, and "
            "@stoker.method() before its methods that are to run elsewhere."
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
            f"{own_name} is a method. Put @stoker.method() before it in place of @app.function(), and @app.cls() "
            "before its class."
        )


def _check_type(kind: Any) -> None:
    if isinstance(kind, Cls):
        raise InvalidRequest(
            f"{kind.label} is decorated already. Use {kind.name}.with_options(…) for other pools of the same class."
        )
    if not isinstance(kind, type):
        is_function = inspect.isroutine(kind) or isinstance(kind, Function)
        what = f"{kind.__name__} is a function: put @app.function() before it" if is_function else f"{kind!r} is none"
        raise InvalidRequest(f"@app.cls takes a class; {what}.")


def _is_redefinition(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Tell whether a notebook's cell, or a reloaded module, defines the same function, or class, again."""
    same = old.__module__ == new.__module__ and old.__qualname__ == new.__qualname__
    return same and (old.__module__ == "__main__" or _place(old) == _place(new))


def _place(function: Callable[..., Any]) -> str:
    """Say where it is defined; a class says so only by its methods."""
    own = vars(function).values() if isinstance(function, type) else [inspect.unwrap(function)]
    codes = [one.__code__ for one in own if hasattr(one, "__code__")]
    return f"{codes[0].co_filename}:{codes[0].co_firstlineno}" if codes else function.__module__

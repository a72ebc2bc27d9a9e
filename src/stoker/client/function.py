"""`Function`: what `@app.function` makes of a user's function. It is called here, there, many times, or later."""

from __future__ import annotations

import asyncio
import difflib
import functools
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from stoker.client.calls import Route
from stoker.client.frames import trimmed
from stoker.client.methods import (
    ForEachMethod,
    MapMethod,
    RemoteMethod,
    SpawnMapMethod,
    SpawnMethod,
    StarmapMethod,
    StreamMethod,
)
from stoker.client.options import FunctionOptions
from stoker.client.reference import Reference, Shape, Target
from stoker.client.session import Session
from stoker.client.signatures import CallSignature
from stoker.client.web import web_app_of, web_spec
from stoker.errors import InvalidOption, InvalidRequest, StokerError
from stoker.transport.current import current_call, current_trace
from stoker.types import OptionsSpec

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, Unpack

    from stoker.client.app import App
    from stoker.client.options import Options
else:
    from typing import ParamSpec

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

_KINDS = {
    "remote": ("call", False),
    "map": ("map", False),
    "starmap": ("map", False),
    "for_each": ("map", False),
    "stream": ("stream", False),
    "spawn": ("call", True),
    "spawn_map": ("map", True),
}
"""`Submit.kind` and `Submit.detached` of the calls that each method makes."""


class Function(Reference, Generic[P, R_co]):
    """A function that runs here when called, and elsewhere through `remote`, `map`, `stream` and `spawn`.

    It pickles by reference, so it may be an argument of other calls.
    """

    _method = ""  # of a class, that its calls name first

    def __init__(
        self,
        raw_f: Callable[P, R_co] | None,
        *,
        app: App | None,
        app_name: str,
        name: str,
        options: FunctionOptions | None = None,
        changed: dict[str, Any] | None = None,
        run_id: str | None = None,
        key: str = "",
    ) -> None:
        super().__init__(
            raw_f, app=app, app_name=app_name, name=name, options=options, changed=changed, run_id=run_id, key=key
        )
        if self._options.gang is not None and raw_f is not None and Shape.of(raw_f).generator:
            raise InvalidOption(
                f"{app_name}.{name} is a generator function, and a gang's call has one value: what rank 0 returns. "
                "Return a list, or leave gang= out."
            )
        if self._options.batch is not None and raw_f is not None and Shape.of(raw_f).generator:
            raise InvalidOption(
                f"{app_name}.{name} is a generator function, and a batch returns a list of results. Return one, or "
                "leave batch= out."
            )
        self._routes: dict[str, Route] = {}
        self._routed: Target | None = None  # where the routes lead
        self._signature = CallSignature.of(raw_f, label=self.label)
        if raw_f is not None:
            functools.update_wrapper(self, raw_f)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            near = [] if name.startswith("_") else difflib.get_close_matches(name, dir(Function), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"The function {vars(self).get('name', '')!r} has no attribute {name!r}.{hint}")

    @classmethod
    def from_name(cls, app: str, name: str) -> Function[..., Any]:
        """Return the handle of a function that is deployed, or served just now. Nothing is asked before its first call.

        Its calls raise `NotFound` where there is no such function, or no server runs.
        """
        return Function(None, app=None, app_name=app, name=name)

    @property
    def raw_f(self) -> Callable[P, R_co]:
        """The user's own function.

        Raises:
            InvalidRequest: this is a reference to a deployed function, whose code is not here.
        """
        if self._raw_f is None:
            raise InvalidRequest(
                f"The code of {self.label} is not in this program, only its name. Call it by {self.name}.remote(…)."
            )
        found: Callable[P, R_co] = self._raw_f
        return found

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function here, in this process."""
        return self.raw_f(*args, **kwargs)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function here, in this process."""
        return self.raw_f(*args, **kwargs)

    @property
    def remote(self) -> RemoteMethod[P, R_co]:
        """Call the function there: blocks, returns its value or raises its exception."""
        return RemoteMethod(self)

    @property
    def map(self) -> MapMethod[P, R_co]:
        """Call the function for each input, in parallel, and yield the results."""
        return MapMethod(self)

    @property
    def starmap(self) -> StarmapMethod[P, R_co]:
        """As `map`, for inputs that are tuples of arguments."""
        return StarmapMethod(self)

    @property
    def for_each(self) -> ForEachMethod[P, R_co]:
        """Call the function for each input, in parallel, for its effects."""
        return ForEachMethod(self)

    @property
    def stream(self) -> StreamMethod[P, R_co]:
        """Run a generator function there and yield its items as they come."""
        return StreamMethod(self)

    @property
    def spawn(self) -> SpawnMethod[P, R_co]:
        """Make a call that goes on by itself; returns once it is accepted for good."""
        return SpawnMethod(self)

    @property
    def spawn_map(self) -> SpawnMapMethod[P, R_co]:
        """Make a call that goes on by itself for each input."""
        return SpawnMapMethod(self)

    def with_options(self, **changed: Unpack[Options]) -> Function[P, R_co]:
        """Return the same code with other options: a pool of its own."""
        given: dict[str, Any] = {**changed}
        return Function(
            self._raw_f,
            app=self._app,
            app_name=self.app_name,
            name=self.name,
            options=self._options.changed(given),
            changed={**self._changed, **given},
            run_id=self._run_id,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        run_id, key = self._run_id, self._key
        if self._app is not None and self._app.run_id:
            run_id = self._app.run_id
        if self._changed:
            key = self.target().key
        return _restore, (self.app_name, self.name, run_id, key)

    def __repr__(self) -> str:
        return f"<Function {self.label}>"

    def __get__(self, instance: object, owner: type | None = None) -> Function[P, R_co]:
        return self  # a Function in a class body stays one; it does not become a method

    def shape(self) -> Shape:
        """Return what kind of function it is; a reference asks the server."""
        return Shape.of(self._raw_f) if self._raw_f is not None else self.target().shape

    def spec_fields(self) -> dict[str, Any]:
        shape = Shape.of(self.raw_f)
        app = web_app_of(self.raw_f)
        return {
            "kind": "generator" if shape.generator else "function",
            "is_async": shape.is_async if app is None else app.is_async,
            "web": web_spec(
                self.raw_f,
                label=self.label,
                streams=shape.generator,
                is_batched=self._options.batch is not None,
            ),
        }

    def spec_options(self, options: FunctionOptions) -> OptionsSpec:
        return options.to_spec()

    def check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise `TypeError` where the function, if its code is here, cannot be called with these arguments."""
        if self._signature is not None:
            self._signature.check(args, kwargs)

    def check_count(self, count: int) -> None:
        """Raise `TypeError` where the function, if its code is here, does not take so many arguments by position.

        A generator function is left to `route`, which says by which method it is called.
        """
        signature = self._signature
        if signature is not None and not signature.takes(count) and not self.shape().generator:
            signature.check((None,) * count, {})

    def route(self, method: str) -> tuple[Session, Route]:
        """Return the session and the route for calls by one of the methods.

        Raises:
            InvalidRequest: a generator is called as a function, or the other way about.
            StokerError: there is no such function, or no server, as `target` says.
        """
        try:
            return self._route(method)
        except StokerError as error:
            raise trimmed(error)  # noqa: B904 - its own cause and context stay

    def _route(self, method: str) -> tuple[Session, Route]:
        if self._raw_f is not None and method not in self._routes:
            self._check_yields(method, Shape.of(self._raw_f))
        target = self.target()
        if target is not self._routed:
            self._routes, self._routed = {}, target
        route = self._routes.get(method)
        if route is None:
            self._check_yields(method, self.shape())
            kind, detached = _KINDS[method]
            route = self._routes[method] = Route(
                target.key, self.label, kind, detached, deadline=target.deadline, method=self._method
            )
        parent = current_call()
        if parent is not None:
            route = route._replace(parent=parent.id)
        if trace := current_trace():
            route = route._replace(trace=trace)
        return target.session, route

    async def route_async(self, method: str) -> tuple[Session, Route]:
        """Return the session and the route; what has to be asked first is asked beside the loop."""
        if self._routed is None or not self._routed.session.usable:
            context = copy_context()
            await asyncio.get_running_loop().run_in_executor(None, context.run, self.route, method)
        return self.route(method)

    def _check_yields(self, method: str, shape: Shape) -> None:
        if self._raw_f is not None and web_app_of(self._raw_f) is not None:
            raise InvalidRequest(
                f"{self.label} makes a web app, which answers over HTTP: it has no {self.name}.{method}(…). "
                f"`stoker deploy` prints its address; {self.name}.local() returns the app itself."
            )
        wanted = method == "stream"
        if shape.generator == wanted:
            return
        if wanted:
            raise InvalidRequest(f"{self.label} is no generator function: call it by {self.name}.remote(…).")
        raise InvalidRequest(
            f"{self.label} is a generator function, whose items come one by one: use {self.name}.stream(…) instead of "
            f"{self.name}.{method}(…)."
        )


def _restore(app_name: str, name: str, run_id: str | None, key: str) -> Function[..., Any]:
    """Open a pickled handle: the very function where its app is defined in this process, else a reference."""
    from stoker.client.app import find_function

    own = find_function(app_name, name)
    if not isinstance(own, Function):
        own = None
    if own is not None and not key:
        return own
    return Function(
        own._raw_f if own is not None else None, app=None, app_name=app_name, name=name, run_id=run_id, key=key
    )

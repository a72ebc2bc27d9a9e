"""`Cls`: what `@app.cls` makes of a user's class. Called with parameters it gives an `Instance`, whose methods run
elsewhere.

A class with one set of parameters has a pool of its own (`Configured`); all its methods run in the same workers. A call
of a method is a call of the pool whose first argument is the method's name.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, TypeVar

from stoker.client.function import Function
from stoker.client.health import check_of
from stoker.client.health import is_async as has_async_check
from stoker.client.here import Here
from stoker.client.lifecycle import ENTER, EXIT, HEALTH_MARK, HOOK_MARK, METHOD_MARK, MethodMark, hooks_of
from stoker.client.names import nearest
from stoker.client.options import FunctionOptions
from stoker.client.parameters import declared_by, defaults_of, values_for
from stoker.client.reference import Reference, Shape, Target
from stoker.client.session import Session
from stoker.client.signatures import CallSignature
from stoker.client.web import MARK as WEB_MARK
from stoker.client.web import endpoint_of, web_app_of
from stoker.errors import InvalidOption, InvalidRequest
from stoker.types import BatchSpec, MethodSpec, OptionsSpec, ParameterSpec

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, Unpack

    from stoker.client.app import App
    from stoker.client.options import Options
else:
    from typing import ParamSpec

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Cls(Generic[T]):
    """A class whose methods run elsewhere: ``Embedder(size="large").embed.remote("hello")``.

    It pickles by reference, and so do its instances.
    """

    def __init__(
        self,
        raw: type[T] | None,
        *,
        app: App | None,
        app_name: str,
        name: str,
        options: FunctionOptions | None = None,
        changed: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> None:
        self._raw = raw
        self.app = app
        self.app_name = app_name
        self.name = name
        self.options = options or FunctionOptions()
        self._changed = dict(changed or {})
        self._run_id = run_id
        self._made: dict[tuple[tuple[str, str, Any], ...], Configured] = {}
        self._known: dict[str, Known] = {}
        self.declared: dict[str, ParameterSpec] = {}
        self.methods: dict[str, MethodSpec] = {}
        if raw is not None:
            self.declared = declared_by(raw, label=self.label)
            self.methods = _methods_of(raw, label=self.label)
            _check_class(raw, self)
            _name_plain_bases(raw)
            functools.update_wrapper(self, raw, updated=())

    @classmethod
    def from_name(cls, app: str, name: str) -> Cls[Any]:
        """Return the handle of a class that is deployed, or served just now. Nothing is asked before its first call.

        Calls of its methods raise `NotFound` where there is no such class, or no server runs, and `InvalidOption` where
        it has other parameters.
        """
        return Cls(None, app=None, app_name=app, name=name)

    @property
    def label(self) -> str:
        """What people read: ``search.Embedder``."""
        return f"{self.app_name}.{self.name}"

    @property
    def raw_f(self) -> type[T]:
        """The user's own class.

        Raises:
            InvalidRequest: this is a reference to a deployed class, whose code is not here.
        """
        if self._raw is None:
            raise InvalidRequest(
                f"The code of {self.label} is not in this program, only its name. Call its methods by "
                f"{self.name}(…).method.remote(…)."
            )
        return self._raw

    def __call__(self, *args: Any, **parameters: Any) -> T:
        """Return an instance with these parameters, whose methods run elsewhere. Nothing is started yet.

        Raises:
            InvalidOption: a parameter is unknown, missing, or of another type.
        """
        if args:
            raise TypeError(
                f"{self.label} takes its parameters by name: {self.name}({', '.join(f'{n}=…' for n in self.declared)})."
            )
        found: Any = Instance(self.configured(parameters))
        return found  # type: ignore[no-any-return]

    def configured(self, given: Mapping[str, Any]) -> Configured:
        """Return what has a pool; the same one for the same values."""
        values = values_for(self.declared, given, label=self.label) if self._raw is not None else dict(given)
        try:
            key = tuple(sorted((name, type(value).__name__, value) for name, value in values.items()))
            found = self._made.get(key)
        except TypeError:
            raise InvalidOption(
                f"{self.label}: parameters are str, int, float or bool, not {_types(values)}."
            ) from None
        if found is None:
            found = self._made[key] = Configured(self, values)
        return found

    def with_options(self, **changed: Unpack[Options]) -> Cls[T]:
        """Return the same class with other options: pools of its own."""
        given: dict[str, Any] = {**changed}
        check_options(given)
        return Cls(
            self._raw,
            app=self.app,
            app_name=self.app_name,
            name=self.name,
            options=self.options.changed(given),
            changed={**self._changed, **given},
            run_id=self._run_id,
        )

    def known(self, name: str) -> Known:
        """Return what is known of a method, worked out once."""
        found = self._known.get(name)
        if found is None:
            plain, checks = _plain(self.raw_f, name), None
            if inspect.isfunction(plain) and "__signature__" not in vars(plain):
                checks = CallSignature(f"{self.label}.{name}", _without_self(plain, follow=False))
            batched = self.methods[name].batch is not None
            found = self._known[name] = Known(plain, batched, _without_self(plain), checks)
        return found

    def spec_fields(self) -> dict[str, Any]:
        """Return what its spec says of the code: that of the class without parameters, as others find it by name."""
        return self.fields_with(defaults_of(self.declared))

    def fields_with(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        kind = self.raw_f
        hooks = [*hooks_of(kind, ENTER), *hooks_of(kind, EXIT)]
        has_async = any(one.is_async for one in self.methods.values()) or any(
            inspect.iscoroutinefunction(getattr(kind, name)) for name in hooks
        )
        check = check_of(kind)
        return {
            "kind": "class",
            "is_async": has_async or has_async_check(kind),
            "methods": self.methods,
            "parameters": dict(parameters),
            "declared": self.declared,
            "health": check[1] if check is not None else None,
        }

    def spec_options(self, options: FunctionOptions) -> OptionsSpec:
        """Return its options as they travel: its methods' batches are among them."""
        batches = [one.batch for one in self.methods.values() if one.batch is not None]
        return dataclasses.replace(options.to_spec(), batch=_largest(batches))

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type]:
        return (self.raw_f,)  # a class may be made of one that is decorated

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self.raw_f)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_class, (self.app_name, self.name, _run_of(self), self._changed)

    def __repr__(self) -> str:
        return f"<Cls {self.label}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            methods = vars(self).get("methods", {})
            if name in methods:
                shown = self.name
                raise AttributeError(f"{name} is a method of an instance: write {shown}(…).{name}.remote(…).")
            near = [] if name.startswith("_") else difflib.get_close_matches(name, [*methods, *dir(Cls)], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            if not near and not name.startswith("_") and vars(self).get("_raw", self) is None:
                made = f"stoker.Cls.from_name({self.app_name!r}, {self.name!r})(…)"  # what it has is not known here
                hint = (
                    f" A method is one of an instance: write {made}.{name}.remote(…), its parameters in place of (…)."
                )
            raise AttributeError(f"The class {vars(self).get('name', '')!r} has no attribute {name!r}.{hint}")


class Known(NamedTuple):
    """What is known of a method whose code is here; ``checks`` are of what its calls are given."""

    plain: Callable[..., Any]
    batched: bool
    shown: inspect.Signature
    checks: CallSignature | None


class Configured(Reference):
    """A class with one set of parameters: what has a pool."""

    _kind = "class"
    _by_name = "stoker.Cls.from_name"

    def __init__(self, cls: Cls[Any], values: dict[str, Any], *, key: str = "") -> None:
        super().__init__(
            cls._raw,
            app=cls.app,
            app_name=cls.app_name,
            name=cls.name,
            options=cls.options,
            changed=cls._changed,
            run_id=cls._run_id,
            key=key,
        )
        self.cls = cls
        self.values = values

    @property
    def raw_f(self) -> Any:
        return self.cls.raw_f

    @property
    def _here(self) -> str:
        return "Its methods' .local(…) runs them here."

    def spec_fields(self) -> dict[str, Any]:
        return self.cls.fields_with(self.values)

    def spec_options(self, options: FunctionOptions) -> OptionsSpec:
        return self.cls.spec_options(options)

    def _own_target(self, session: Session, run: object, key: str) -> Target:
        methods = self.cls.methods if self._raw_f is not None else self._ask(session)[0].methods
        return Target(session, run, key, methods=methods)

    def _varied(self, spec: Any) -> Any:
        values = values_for(spec.declared, self.values, label=self.label)
        return dataclasses.replace(super()._varied(spec), parameters=values)


class Instance:
    """An instance of a class that runs elsewhere. Its attributes are the class's methods, and its parameters."""

    def __init__(self, configured: Configured) -> None:
        self._configured = configured
        self._methods: dict[str, BoundMethod[..., Any]] = {}
        self._here = Here(configured._raw_f, configured.values, label=configured.label)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_configured" not in vars(self):
            raise AttributeError(name)
        found = self._methods.get(name)
        if found is not None:
            return found
        configured = self._configured
        if name in configured.values:
            return configured.values[name]
        cls = configured.cls
        if name not in cls.methods and (cls._raw is not None or name.startswith("_")):
            raise AttributeError(_no_method(cls, name))
        made = self._methods[name] = BoundMethod(self, name)
        return made

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._configured.cls.methods, *self._configured.values})

    def __reduce__(self) -> tuple[Any, ...]:
        configured = self._configured
        key = configured.target().key if configured._changed else configured._key
        return _restore_instance, (
            configured.app_name,
            configured.name,
            _run_of(configured.cls),
            key,
            configured.values,
        )

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._configured.values.items())
        return f"<{self._configured.label}({shown})>"


class BoundMethod(Function[P, R]):
    """A method of an instance: a function whose calls name it first."""

    def __init__(self, instance: Instance, name: str) -> None:
        configured = instance._configured
        kind = configured._raw_f
        self._instance = instance
        self._method = name
        known = configured.cls.known(name) if kind is not None else None
        super().__init__(
            _run_here(instance, name, known) if known is not None else None,
            app=configured.app,
            app_name=f"{configured.app_name}.{configured.name}",
            name=name,
            options=configured.options,
        )
        if known is not None:
            self._signature = known.checks

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method here, on an instance of this process; its enter hooks have run once."""
        return self.raw_f(*args, **kwargs)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method here, on an instance of this process; its enter hooks have run once."""
        return self.raw_f(*args, **kwargs)

    def target(self) -> Target:
        return self._instance._configured.target()

    def shape(self) -> Shape:
        if self._raw_f is not None:
            return Shape.of(self._raw_f)
        methods = self.target().methods
        if self.name not in methods:
            raise InvalidRequest(
                f"{self.app_name} has no method {self.name!r} that runs elsewhere. {nearest(self.name, methods)}"
            )
        return Shape.told(methods[self.name])

    def with_options(self, **changed: Unpack[Options]) -> NoReturn:
        """Raise `InvalidRequest`: options are the class's."""
        name = self._instance._configured.name
        raise InvalidRequest(
            f"{self.label} is a method, and options are those of its class, whose methods share their workers: write "
            f"{name}.with_options(…)(…).{self.name}."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._instance, self.name)

    def __repr__(self) -> str:
        return f"<Method {self.label}>"


def check_options(given: Mapping[str, Any]) -> None:
    """Raise `InvalidOption` for what a class cannot have."""
    if given.get("gang") is not None:
        raise InvalidOption("gang=… is for functions: a class has no gangs. Make a function of what a gang is to run.")
    if given.get("batch") is not None:
        raise InvalidOption("batch=… is a method's: write @stoker.method(batch=stoker.Batch(…)) in the class.")


def _check_class(kind: type, cls: Cls[Any]) -> None:
    """Raise `InvalidRequest` where no worker could make an instance, or would have nothing to run."""
    for base in kind.__mro__:
        for name, value in vars(base).items():
            inner = getattr(value, "__func__", None)
            if isinstance(value, (staticmethod, classmethod)) and any(
                hasattr(inner, mark) for mark in (METHOD_MARK, HOOK_MARK, HEALTH_MARK)
            ):
                raise InvalidRequest(
                    f"{cls.label}: {name} is a {type(value).__name__}. What runs in a worker is a plain method, which "
                    "takes `self`."
                )
    check_of(kind, label=cls.label)
    _check_reached(cls)
    if not cls.methods:
        raise InvalidRequest(
            f"{cls.label} has no method that could be called. Put @stoker.method() before those that are to run "
            "elsewhere."
        )
    if kind.__init__ is not object.__init__:  # type: ignore[misc]
        taken = [one.name for one in list(inspect.signature(kind.__init__).parameters.values())[1:]]  # type: ignore[misc]
        if taken:
            raise InvalidRequest(
                f"{cls.label}: its __init__ takes {', '.join(taken)}, and workers make instances without arguments. "
                'Declare what it is configured by, as in `size: str = stoker.parameter(default="small")`, and prepare '
                "the rest in a method under @stoker.enter()."
            )


def _check_reached(cls: Cls[Any]) -> None:
    """Raise `InvalidOption` where HTTP could not reach a method: a request has nothing to give parameters by."""
    needed = [name for name, spec in cls.declared.items() if spec.required]
    reached = [name for name, spec in cls.methods.items() if spec.web is not None]
    if needed and reached:
        raise InvalidOption(
            f"{cls.label}.{reached[0]} is reached over HTTP, which gives a class its default parameters: "
            f"{', '.join(map(repr, needed))} has none. Write it as in `{needed[0]}: "
            f"{cls.declared[needed[0]].type} = stoker.parameter(default=…)`, or deploy a class for each value."
        )


def _name_plain_bases(kind: type) -> None:
    """Have a class that was made of decorated ones name the plain ones: by these it is made again where it arrives."""
    for base in kind.__mro__:
        named = vars(base).get("__orig_bases__", ())
        if any(isinstance(one, Cls) for one in named):
            base.__orig_bases__ = tuple(one.raw_f if isinstance(one, Cls) else one for one in named)  # type: ignore[attr-defined]


def _methods_of(kind: type, *, label: str) -> dict[str, MethodSpec]:
    found: dict[str, MethodSpec] = {}
    for base in reversed(kind.__mro__):
        for name in vars(base):
            mark = _mark_of(kind, name)
            if mark is not None:
                function = _plain(kind, name)
                shape, endpoint = Shape.of(function), endpoint_of(function)
                web = None
                if endpoint is not None:
                    own = f"{label}.{name}"
                    web = endpoint.to_spec(
                        function,
                        label=own,
                        streams=shape.generator,
                        is_method=True,
                        is_batched=mark.batch is not None,
                    )
                batch = mark.batch.to_spec() if mark.batch is not None else None
                app = web_app_of(function)
                is_async = shape.is_async if app is None else app.is_async
                found[name] = MethodSpec("generator" if shape.generator else "function", is_async, batch, web)
    return found


def _mark_of(kind: type, name: str) -> MethodMark | None:
    """Return the mark of a method, or of what it overrides; one that is called over HTTP needs none of its own."""
    for base in kind.__mro__:
        value = vars(base).get(name)
        if inspect.isfunction(value):
            mark = getattr(value, METHOD_MARK, None)
            if mark is not None or hasattr(value, WEB_MARK):
                return mark or MethodMark()
    return None


def _plain(kind: type, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(kind, name)
    return found


def _without_self(function: Callable[..., Any], *, follow: bool = True) -> inspect.Signature:
    signature = inspect.signature(function, follow_wrapped=follow)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _run_here(instance: Instance, name: str, known: Known) -> Callable[..., Any]:
    """Return the method as a function of this process, which takes what its calls take."""

    @functools.wraps(known.plain)
    def here(*args: Any, **kwargs: Any) -> Any:
        return instance._here.call(name, args, kwargs, batched=known.batched)

    here.__signature__ = known.shown  # type: ignore[attr-defined]
    return here


def _largest(batches: list[BatchSpec]) -> BatchSpec | None:
    return max(batches, key=lambda one: (one.max_size, one.max_wait), default=None)


def _types(values: Mapping[str, Any]) -> str:
    return ", ".join(sorted({type(value).__name__ for value in values.values()}))


def _no_method(cls: Cls[Any], name: str) -> str:
    if cls._raw is not None and inspect.isfunction(getattr(cls._raw, name, None)):
        return (
            f"{cls.label}: {name} runs in the instance only, where other methods call it. To call it from outside, put "
            "@stoker.method() before it."
        )
    near = [] if name.startswith("_") else difflib.get_close_matches(name, [*cls.methods, *cls.declared], n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Its methods: {', '.join(cls.methods)}."
    return f"{cls.label} has no method {name!r}. {hint} (What its methods set on `self` is in its workers.)"


def _run_of(cls: Cls[Any]) -> str | None:
    return cls.app.run_id if cls.app is not None and cls.app.run_id else cls._run_id


def _own(app_name: str, name: str) -> Cls[Any] | None:
    from stoker.client.app import find_function

    found = find_function(app_name, name)
    return found if isinstance(found, Cls) else None


def _restore_class(app_name: str, name: str, run_id: str | None, changed: dict[str, Any]) -> Cls[Any]:
    """Open a pickled handle: the very class where its app is defined in this process, else a reference."""
    found = _own(app_name, name) or Cls(None, app=None, app_name=app_name, name=name, run_id=run_id)
    return found.with_options(**changed) if changed else found


def _restore_instance(app_name: str, name: str, run_id: str | None, key: str, values: dict[str, Any]) -> Any:
    own = _own(app_name, name)
    if own is not None and not key:
        return own(**values)
    raw = own._raw if own is not None else None
    reference: Cls[Any] = Cls(raw, app=None, app_name=app_name, name=name, run_id=run_id)
    return Instance(Configured(reference, values, key=key))

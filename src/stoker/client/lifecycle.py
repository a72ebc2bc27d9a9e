"""What marks the parts of a class: its parameters, its methods, and what runs when its workers begin and end.

A decorator here leaves the function as it is, with a mark on it. Type checkers see a method as one that also runs
elsewhere. What reads the marks is in `stoker.client.classes`, and in `stoker.runner.instances` where the class runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from stoker.errors import InvalidOption, InvalidRequest

if TYPE_CHECKING:
    from typing import Concatenate

    from typing_extensions import ParamSpec

    from stoker.client.batches import Batch
    from stoker.client.function import Function
else:
    from typing import Concatenate, ParamSpec

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
F = TypeVar("F", bound="Callable[..., Any]")

METHOD_MARK = "__stoker_method__"
HOOK_MARK = "__stoker_hook__"
HEALTH_MARK = "__stoker_healthy__"  # a `HealthSpec`; see `stoker.client.health`
ENTER, EXIT = "enter", "exit"


@dataclass(frozen=True)
class MethodMark:
    """On a function that calls may run; ``batch`` where it takes many inputs at once."""

    batch: Any = None


@dataclass(frozen=True)
class Hook:
    """On a function that runs by itself. ``kind``: ``enter`` · ``exit``; ``snapshot``: before workers fork."""

    kind: str
    snapshot: bool = False


@dataclass(frozen=True)
class Parameter:
    """What stands in a class in place of a parameter's value."""

    required: bool
    default: Any = None


class Method(Generic[P, R]):
    """How a type checker sees a method: found at an instance, it is called as a function of an app is."""

    if TYPE_CHECKING:

        def __get__(self, instance: object, owner: Any = None) -> Function[P, R]: ...


class MethodDecorator(Protocol):
    """What ``@stoker.method()`` returns."""

    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Method[P, R]: ...


class BatchedMethodDecorator(Protocol):
    """What ``@stoker.method(batch=…)`` returns: who calls the method gives one item."""

    def __call__(self, function: Callable[[Any, list[A]], list[B]], /) -> Method[[A], B]: ...


class HookDecorator(Protocol):
    """What ``@stoker.enter()`` and ``@stoker.exit()`` return: the function stays what it is."""

    def __call__(self, function: F, /) -> F: ...


@overload
def parameter(*, default: T) -> T: ...
@overload
def parameter() -> Any: ...
def parameter(**given: Any) -> Any:
    """Declare what a class is configured by: ``size: str = stoker.parameter(default="small")``.

    Its type is `str`, `int`, `float` or `bool`. Without a default it must be given. Each set of values has workers of
    its own.
    """
    for name in given:
        if name != "default":
            raise InvalidOption(f"parameter({name}=…): there is no such argument. It takes: default.")
    return Parameter(required="default" not in given, default=given.get("default"))


@overload
def method(function: Callable[Concatenate[Any, P], R], /) -> Method[P, R]: ...
@overload
def method(*, batch: None = ...) -> MethodDecorator: ...
@overload
def method(*, batch: Batch) -> BatchedMethodDecorator: ...
def method(function: Any = None, /, *, batch: Any = None) -> Any:
    """Make a method of a class one that runs elsewhere; with or without parentheses.

    With ``batch`` it takes a list and returns one of the same length, and who calls it gives one item.

    Raises:
        InvalidRequest: it is no method, but a property, say.
    """
    if batch is not None and not callable(getattr(batch, "to_spec", None)):
        raise InvalidOption(
            f'method(batch={batch!r}) is no batch. Write batch=stoker.Batch(max_size=32, max_wait="5ms").'
        )

    def mark(given: Any) -> Any:
        _check_plain(given, "method")
        if batch is not None and (inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given)):
            raise InvalidRequest(
                f"{given.__qualname__} is a generator, and takes no batch: a batched method returns a list."
            )
        setattr(given, METHOD_MARK, MethodMark(batch))
        return given

    return mark if function is None else mark(function)


@overload
def enter(function: F, /) -> F: ...
@overload
def enter(*, snapshot: bool = ...) -> HookDecorator: ...
def enter(function: Any = None, /, *, snapshot: bool = False) -> Any:
    """Have a method run when a worker begins, before its first call.

    With ``snapshot`` it runs once, in the process that workers are then forked from: what it loads they share. What is
    a worker's own (a connection, a GPU, a thread) belongs into one without.

    Raises:
        InvalidRequest: it is a generator, or a coroutine that would run before workers fork.
    """

    def mark(given: Any) -> Any:
        check_hook(given, ENTER)
        if snapshot and inspect.iscoroutinefunction(given):
            raise InvalidRequest(
                f"{given.__qualname__} is async, and enter(snapshot=True) runs before workers fork, where no event "
                "loop may run yet. Make it a plain function, or leave snapshot out."
            )
        setattr(given, HOOK_MARK, Hook(ENTER, bool(snapshot)))
        return given

    return mark if function is None else mark(function)


@overload
def exit(function: F, /) -> F: ...
@overload
def exit() -> HookDecorator: ...
def exit(function: Any = None, /) -> Any:
    """Have a method run when a worker ends, after its last call.

    Raises:
        InvalidRequest: it is a generator.
    """

    def mark(given: Any) -> Any:
        check_hook(given, EXIT)
        setattr(given, HOOK_MARK, Hook(EXIT))
        return given

    return mark if function is None else mark(function)


def _check_plain(given: Any, name: str) -> None:
    if not inspect.isfunction(given):
        shown = f"a {type(given).__name__}" if isinstance(given, (staticmethod, classmethod, property)) else repr(given)
        raise InvalidRequest(
            f"@stoker.{name} takes a plain method, `def …(self, …)`, not {shown}. Leave the other decorator out, or "
            f"put @stoker.{name} on a method that calls it."
        )


def check_hook(given: Any, kind: str) -> None:
    """Raise `InvalidRequest` for what cannot be called by itself, with `self` alone."""
    _check_plain(given, kind)
    if inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given):
        if kind not in {ENTER, EXIT}:
            raise InvalidRequest(f"{given.__qualname__} yields, so calling it runs nothing. Have it return instead.")
        raise InvalidRequest(
            f"{given.__qualname__} yields, so calling it runs nothing. What runs when a worker begins and what runs "
            "when it ends are two methods: one under @stoker.enter(), one under @stoker.exit()."
        )
    needed = [
        one.name
        for one in list(inspect.signature(given).parameters.values())[1:]
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if needed:
        raise InvalidRequest(
            f"{given.__qualname__} takes {', '.join(needed)}, and nobody is there to give it: @stoker.{kind} calls it "
            "with `self` alone. What it needs can be a stoker.parameter(…) of the class."
        )


# What reads the marks where an instance is made.


def make_instance(kind: type, parameters: dict[str, Any]) -> Any:
    """Make an instance: its parameters are there when its ``__init__`` runs."""
    maker: Any = kind
    made = maker.__new__(maker)
    for name, value in parameters.items():
        setattr(made, name, value)
    made.__init__()
    return made


def hooks_of(kind: type, what: str, *, snapshot: bool = False) -> Iterator[str]:
    """Yield the names of hooks in the order in which they run.

    That is the order of definition, base classes before those that are made of them, and for exits the other way
    about. One that is overridden stays a hook.
    """
    bases = [base for base in kind.__mro__ if base is not object]
    seen: set[str] = set()
    for base in bases if what == EXIT else reversed(bases):
        for name in vars(base):
            if name not in seen and hook_of(kind, name) == Hook(what, snapshot):
                seen.add(name)
                yield name


def hook_of(kind: type, name: str) -> Hook | None:
    """Return the mark of a method, or of what it overrides."""
    for base in kind.__mro__:
        found = getattr(vars(base).get(name), HOOK_MARK, None)
        if isinstance(found, Hook):
            return found
    return None


def check_no_method(function: Any, *, label: str) -> None:
    """Raise `InvalidRequest` for a function that is marked as only a class's methods can be."""
    for mark, name in ((HOOK_MARK, "enter or @stoker.exit"), (HEALTH_MARK, "healthy"), (METHOD_MARK, "method")):
        if hasattr(function, mark):
            raise InvalidRequest(
                f"{label}: @stoker.{name} is for methods of a class under @app.cls(…), whose workers have something to "
                "prepare and to look after. Make a class of the function, or leave the decorator out."
            )

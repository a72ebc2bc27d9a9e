"""A function's typed parameters as command-line options."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union
from uuid import UUID

import typer

from stoker.errors import InvalidRequest

_PLAIN = (int, float, str, bool, Path, datetime, UUID)
_LISTS = (list, Sequence)


def parse(function: Callable[..., Any], arguments: Sequence[str], *, program: str) -> dict[str, Any] | None:
    """Read a command line into a function's keyword arguments; None after ``--help``.

    A mistake on the command line is raised as Typer's own usage error.

    Raises:
        InvalidRequest: a parameter has a type that no option can have.
    """
    parsed: list[dict[str, Any]] = []

    def take(**values: Any) -> None:
        parsed.append(values)

    signature = signature_of(function)
    take.__signature__ = signature  # type: ignore[attr-defined]
    take.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    take.__doc__ = inspect.getdoc(function)
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command(help=take.__doc__)(take)
    command(args=list(arguments), prog_name=program, standalone_mode=False)
    return parsed[0] if parsed else None


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature with every parameter made an option of a type that Typer reads."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise InvalidRequest(f"The types of {function.__qualname__}'s parameters cannot be read: {error}.") from None
    options = [
        _option(parameter, hints, function.__qualname__)
        for parameter in inspect.signature(function).parameters.values()
    ]
    return inspect.Signature(options)


def _option(parameter: inspect.Parameter, hints: dict[str, Any], owner: str) -> inspect.Parameter:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise InvalidRequest(
            f"{owner} takes *{parameter.name}, which cannot be made options. Give it named parameters with types."
        )
    default = parameter.default
    kind, text = _split(hints.get(parameter.name, _guess(default)))
    if not _is_supported(kind):
        raise InvalidRequest(
            f"The parameter {parameter.name!r} of {owner} has the type {_name(kind)}, which cannot be written on a "
            "command line. Types that can: int, float, str, bool, Path, datetime, an Enum, a Literal, and Optional or "
            "list of these."
        )
    annotation: Any = Annotated[kind, typer.Option(help=text)]
    return inspect.Parameter(parameter.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _split(kind: Any) -> tuple[Any, str | None]:
    """Return a type, and the help that ``Annotated[type, "help"]`` gives."""
    if typing.get_origin(kind) is Annotated:
        inner, *notes = typing.get_args(kind)
        return inner, next((note for note in notes if isinstance(note, str)), None)
    return kind, None


def _guess(default: Any) -> Any:
    return type(default) if isinstance(default, (*_PLAIN, Enum)) else str


def _is_supported(kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        given = [item for item in inner if item is not type(None)]
        return len(given) == 1 and _is_supported(given[0])
    if origin in _LISTS or origin is typing.get_origin(Sequence[int]):
        return _is_single(inner[0])
    return _is_single(kind)


def _is_single(kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return all(isinstance(value, str) for value in typing.get_args(kind))
    return isinstance(kind, type) and issubclass(kind, (*_PLAIN, Enum))


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)

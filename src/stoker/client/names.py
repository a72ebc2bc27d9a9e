"""Names of arguments that are none: an error that suggests the nearest that there is, in place of Python's own."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from stoker.errors import InvalidOption

if TYPE_CHECKING:
    from typing_extensions import ParamSpec
else:
    from typing import ParamSpec

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")


def names_checked(function: Callable[P, R], *, label: str = "") -> Callable[P, R]:
    """Make a function raise `InvalidOption` for a keyword that it does not take. It is called from one frame deeper."""
    parameters = inspect.signature(function).parameters.values()
    names = [one.name for one in parameters if one.name != "self" and one.kind is not one.POSITIONAL_ONLY]
    shown = label or function.__name__

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                raise InvalidOption(f"{shown}({name}=…): there is no such argument. {nearest(name, names)}")
        return function(*args, **kwargs)

    return checked


def fields_checked(kind: type[K]) -> type[K]:
    """Make a class, a dataclass say, raise `InvalidOption` for a keyword that is none of its fields."""
    kind.__init__ = names_checked(kind.__init__, label=kind.__name__)  # type: ignore[method-assign]
    return kind


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the sentence that helps whoever wrote a name that is none of these."""
    known = list(names)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"It takes: {', '.join(known)}."

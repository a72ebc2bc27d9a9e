"""What a function can be called with, checked before anything is sent."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

MANY = 1 << 30  # of positional arguments: as many as anybody likes


class CallSignature:
    """The signature of one function. What is usual is told by a count; `inspect` finds what is wrong with the rest."""

    __slots__ = ("_label", "_least", "_most", "_signature")

    def __init__(self, label: str, signature: inspect.Signature) -> None:
        self._label = label
        self._signature = signature
        self._least, self._most = _counts(signature)

    @classmethod
    def of(cls, function: Callable[..., Any] | None, *, label: str) -> CallSignature | None:
        """Return a function's own signature, None where it cannot be known.

        A decorator that hands on ``*args`` may take other arguments than what it wraps, so its own signature counts,
        whatever it says of itself.
        """
        if not isinstance(function, FunctionType) or "__signature__" in vars(function):
            return None
        return cls(label, inspect.signature(function, follow_wrapped=False))

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Check arguments.

        Raises:
            TypeError: the function cannot be called with them; the message has its signature.
        """
        if not kwargs and self._least <= len(args) <= self._most:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self} cannot be called with these arguments: {error}. It was not sent.") from None

    def takes(self, count: int) -> bool:
        """Tell whether so many positional arguments are enough, and not too many."""
        return self._least <= count <= self._most

    def __str__(self) -> str:
        shown = [p.replace(annotation=_shown(p.annotation)) for p in self._signature.parameters.values()]
        returned = _shown(self._signature.return_annotation)
        return f"{self._label}{self._signature.replace(parameters=shown, return_annotation=returned)}"


class _Text:
    """An annotation that is shown as it was written."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _shown(annotation: Any) -> Any:
    return _Text(annotation) if isinstance(annotation, str) else annotation


def _counts(signature: inspect.Signature) -> tuple[int, int]:
    """Return how few and how many positional arguments are enough by themselves."""
    least = most = 0
    for parameter in signature.parameters.values():
        required = parameter.default is parameter.empty
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += required
        elif parameter.kind is parameter.VAR_POSITIONAL:
            most = MANY
        elif parameter.kind is parameter.KEYWORD_ONLY and required:
            return 1, 0  # never by position alone
    return least, most

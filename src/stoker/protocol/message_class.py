"""What makes a class a message: a dataclass that type checkers take for a frozen one, and that is cheap to make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from typing import dataclass_transform

    @dataclass_transform(frozen_default=True, field_specifiers=(field,))
    def message(cls: type[T]) -> type[T]:
        """Make a frozen dataclass."""

else:

    def message(cls):
        """Make a dataclass that type checkers take for a frozen one.

        Three processes import this page before a program's first result, and each call makes four messages: what
        `dataclass` generates for comparing, printing and freezing every one of them costs more than half of both.
        """
        cls.__eq__, cls.__repr__, cls.__hash__ = _equal, _shown, None
        return dataclass(eq=False, repr=False)(cls)


def _values(message: Any) -> dict[str, Any]:
    # Not `vars`: msgspec leaves a default where it is, in the class.
    return {name: getattr(message, name) for name in message.__dataclass_fields__}


def _equal(self: Any, other: object) -> bool:
    return type(self) is type(other) and _values(self) == _values(other)


def _shown(self: Any) -> str:
    return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in _values(self).items())})"

"""A value that cannot be opened here, because what it is made of is not installed here."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NoReturn

from stoker.errors import SerializationError
from stoker.protocol.encoded import Buffer


class UnopenedValue(SerializationError, AttributeError):
    """Something was asked of a value that cannot be opened here; the message says what is missing.

    It is an `AttributeError` too, so that ``hasattr`` answers False and ``getattr`` takes its default.
    """


class RemoteValue:
    """A value that arrived but cannot be opened here; passed on to another call, it opens where it can be.

    ``remote_type`` is its qualified type, ``reason`` why it cannot be opened, ``missing`` the module that is not
    installed here ("" where that is not the reason), ``payload`` its bytes. Where it is a list, tuple, dict or set that
    holds such a thing, ``container`` says which, and ``remote_type`` is the thing's.
    """

    __slots__ = ("_opener", "container", "missing", "payload", "reason", "remote_type")

    def __init__(
        self,
        payload: Buffer,
        *,
        opener: Callable[[Any], object],
        remote_type: str,
        reason: str,
        missing: str = "",
        container: str = "",
    ) -> None:
        self.payload = payload
        self.remote_type = remote_type
        self.reason = reason
        self.missing = missing
        self.container = container
        self._opener = opener

    def open(self) -> object:
        """Return the value, if by now it can be opened.

        Raises:
            UnopenedValue: it still cannot.
        """
        value = self._opener(self.payload)
        if isinstance(value, RemoteValue):
            value._refuse("be opened")
        return value

    def _refuse(self, what: str) -> NoReturn:
        hint = (
            f"Install {self.missing.partition('.')[0]!r} here, or pass the value on to a function whose image has it."
            if self.missing
            else "Pass it on to a function whose image can open it."
        )
        subject = (
            f"This {self.container} holds a {self.remote_type}, so it" if self.container else f"A {self.remote_type}"
        )
        raise UnopenedValue(f"{subject} cannot {what} here: {self.reason}. {hint}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # protocols that probe for it (copy, IPython, NumPy) must just go on
        self._refuse(f"give its attribute {name!r}")

    def __call__(self, *args: object, **kwargs: object) -> Any:
        self._refuse("be called")

    def __getitem__(self, key: object) -> Any:
        self._refuse("be indexed")

    def __iter__(self) -> Any:
        self._refuse("be iterated over")

    def __repr__(self) -> str:
        what = f"{self.container} with a {self.remote_type}" if self.container else self.remote_type
        return f"<RemoteValue {what}, not opened here: {self.reason}>"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        payload = pickle.PickleBuffer(self.payload) if protocol >= 5 else bytes(self.payload)
        return self._opener, (payload,)

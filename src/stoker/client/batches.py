"""`Batch`: how many inputs a function takes at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from stoker.client.names import fields_checked
from stoker.errors import InvalidOption
from stoker.quantities import parse_duration
from stoker.types import BatchSpec

SIZE_MAX = 10_000


@fields_checked
@dataclass(frozen=True)
class Batch:
    """A function that takes a list of inputs, each of which is another call's, and returns a list of as many results.

    At most ``max_size`` calls are gathered, for ``max_wait`` at most (seconds, ``"5ms"`` or a `timedelta`), and for
    less where waiting has gained nothing lately: a caller that is alone is not kept waiting.
    """

    max_size: int
    max_wait: float | str | timedelta = 0.0

    def __post_init__(self) -> None:
        self.to_spec()

    def to_spec(self) -> BatchSpec:
        """Return the checked form that travels."""
        if not isinstance(self.max_size, int) or isinstance(self.max_size, bool) or not 1 <= self.max_size <= SIZE_MAX:
            raise InvalidOption(f"Batch(max_size={self.max_size!r}): write a number of inputs from 1 to {SIZE_MAX}.")
        return BatchSpec(self.max_size, parse_duration(self.max_wait, option="Batch(max_wait)", zero=True))

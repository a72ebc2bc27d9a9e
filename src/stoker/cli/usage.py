"""What is wrong with a command line itself: it ends with the status of a wrong use."""

from __future__ import annotations

import os
from pathlib import Path

from stoker.errors import InvalidRequest


class WrongUsage(InvalidRequest):
    """An option, an argument or a setting cannot be read, or does not say enough."""


def check_directory(value: str, *, said: str) -> None:
    """Check that a directory is there or could be made; it is not made yet.

    Raises:
        WrongUsage: it could not; the message says ``said``, how the user named it.
    """
    place = Path(value)
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise WrongUsage(f"{said} cannot be used: {place} is not a directory.")
    if not os.access(place, os.W_OK | os.X_OK):
        what = "you may not write there" if place == Path(value) else f"you may not write to {place}"
        raise WrongUsage(f"{said} cannot be used: {what}. Name a directory of your own.")

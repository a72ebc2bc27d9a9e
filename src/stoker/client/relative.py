"""Relative paths of a program: they begin at the directory of the file that they are written in, as its imports do.

So an app means the same from wherever it is run or deployed. What is typed at a prompt or in a notebook, where there is
no file, begins at the working directory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stoker.transport.current import being_loaded

_OURS = "stoker"


def beside_caller(given: str | os.PathLike[str]) -> Path:
    """Return a path that a program names, made absolute."""
    path = Path(given).expanduser()
    return path if path.is_absolute() else (_directory() or Path.cwd()) / path


def hint(given: str | os.PathLike[str]) -> str:
    """Return what to add to an error of a path that is not there: where it was looked for, and where there is one."""
    path = Path(given).expanduser()
    if path.is_absolute() or _directory() is None:
        return ""
    said = " A relative path begins at the directory of the file that it is written in."
    here = Path.cwd() / path
    return f"{said} There is {here}, in the working directory: name that in full." if here.exists() else said


def stays_behind() -> bool:
    """Tell whether this is a module's import in a worker: the files that it names are where it was deployed from."""
    return bool(being_loaded())


def _directory() -> Path | None:
    """Return the directory of the file whose code has called Stoker; None where that is in no file."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == _OURS:
        frame = frame.f_back
    file = frame.f_globals.get("__file__")
    return Path(file).absolute().parent if isinstance(file, str) else None

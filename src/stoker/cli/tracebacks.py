"""A user's exception as the user should see it: their own frames, there and here, without Stoker's."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from pathlib import Path

import typer

import stoker
from stoker.errors import RemoteError, StokerError
from stoker.protocol.remote_exceptions import RemoteTraceback
from stoker.runner.missing_modules import distribution_of

_OURS = tuple(f"{Path(module.__file__ or '').resolve().parent}{os.sep}" for module in (stoker, typer))

_INSTALLED = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib"))

_UNPACKED = re.compile(r'File "/[^"]*/bundles/[0-9a-f]{64}/')  # where a worker has the user's own files


def describe(error: BaseException) -> str:
    """Return what to print of an exception: where it was raised in a worker first, then who called it here."""
    there = remote_text(error)
    shown = traceback.TracebackException.from_exception(error)
    _trim(shown)
    if not there and not shown.stack and not isinstance(error, SyntaxError):
        return "".join(traceback.format_exception(error)).rstrip()  # a bug of Stoker's own: all of it is wanted
    if not there:
        return "".join(shown.format()).rstrip()
    there = "\n".join([there, *(note for note in map(str, getattr(error, "__notes__", ())) if note not in there)])
    if not shown.stack:
        return there
    here = "".join(shown.stack.format()).rstrip()
    return f"{there}\n\nThat was in a worker. It was called here:\n{here}"


def called_from(error: StokerError) -> str:
    """Return the line of the user's own code that led to one of Stoker's errors, to print after it; empty if none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_ours(frame.filename) and not _is_installed(frame.filename)]
    return "\n\nIt was called here:\n" + "".join(traceback.format_list(own[-1:])).rstrip() if own else ""


def missing_here(error: BaseException) -> str:
    """Return what to do about a module that this program imports and that is not installed here; empty if none is."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or remote_text(error):
        return ""
    name = error.name.partition(".")[0]
    return (
        f"\n\n{name!r} is not installed here, where the file is read as well. If it is only in a function's image, "
        f"import it inside that function; else install {distribution_of(name)}."
    )


def remote_text(error: BaseException) -> str:
    """Return the traceback of the worker in which an exception was raised; empty if it was raised here."""
    text = error.traceback if isinstance(error, RemoteError) else ""
    if isinstance(error.__cause__, RemoteTraceback):
        text = error.__cause__.text
    return _UNPACKED.sub('File "', text).strip()


def is_ours_alone(error: StokerError) -> bool:
    """Tell whether a sentence says all: one of Stoker's errors, and no code of the user's raised it."""
    return not remote_text(error)


def _trim(shown: traceback.TracebackException) -> None:
    for part in (shown, shown.__cause__, shown.__context__):
        if part is None:
            continue
        kept = [frame for frame in part.stack if not _is_ours(frame.filename)]
        part.stack = traceback.StackSummary.from_list(kept)
        if part is not shown:
            _trim(part)


def _is_ours(filename: str) -> bool:
    return filename.startswith(("<frozen importlib", *_OURS)) or filename.endswith(f"{os.sep}bin{os.sep}stoker")


def _is_installed(filename: str) -> bool:
    return filename.startswith(("<frozen ", "<string>", *_INSTALLED))  # a dataclass's own methods are in no file

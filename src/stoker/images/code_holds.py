"""Users' source as it lies unpacked on this machine: held while something runs from it, swept when nobody has for long.

    <root>/<digest>             a bundle, unpacked; shared by all programs of this user
    <root>/<digest>.pickle      a function by value
    <root>/guards/<name>.use    locked while in use; its time is that of the last use

What is swept is unpacked again from its blob when it is wanted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from stoker.images.file_locks import take_shared, try_exclusive

UNUSED_SECONDS = 7 * 86400.0  # as long as results and output are kept
GUARDS = "guards"


class CodeHold:
    """A claim on unpacked source, until `release` or the end of this process."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root = root
        self._names = names
        self._fds = [take_shared(_guard(root, name)) for name in names]
        for fd in self._fds:
            os.utime(fd)  # what `sweep` goes by

    def again(self) -> CodeHold:
        """Return another claim on the same source."""
        return CodeHold(self._root, self._names)

    def release(self) -> None:
        """Give the claim back; harmless when done twice."""
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)


def sweep(root: Path, *, unused: float = UNUSED_SECONDS, clock: Callable[[], float] = time.time) -> list[str]:
    """Remove source that nobody holds or has held for so many seconds, and what processes that died left half made."""
    removed = []
    for path in _entries(root):
        if path.name.startswith("."):
            if _age(path, clock) >= unused:
                _remove(path)
        elif _is_unused(root, path.name, unused, clock) and _sweep_one(root, path):
            removed.append(path.name)
    for guard in _entries(root / GUARDS):
        if not (root / guard.stem).exists() and _age(guard, clock) >= unused:
            fd = try_exclusive(guard)
            if fd is not None:
                guard.unlink(missing_ok=True)
                os.close(fd)
    return removed


def _is_unused(root: Path, name: str, unused: float, clock: Callable[[], float]) -> bool:
    guard = _guard(root, name)
    if guard.exists():
        return _age(guard, clock) >= unused
    fd = try_exclusive(guard)  # unpacked before there were guards: its time begins now
    if fd is not None:
        os.close(fd)
    return False


def _sweep_one(root: Path, path: Path) -> bool:
    guard = _guard(root, path.name)
    fd = try_exclusive(guard)
    if fd is None:
        return False
    try:
        aside = path.with_name(f".{path.name[:40]}-gone-{os.getpid()}")
        path.rename(aside)  # at once: what is there under its name is whole
        _remove(aside)
        guard.unlink(missing_ok=True)
    finally:
        os.close(fd)
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _age(path: Path, clock: Callable[[], float]) -> float:
    try:
        return clock() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _entries(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from [path for path in directory.iterdir() if path.name != GUARDS]


def _guard(root: Path, name: str) -> Path:
    return root / GUARDS / f"{name}.use"

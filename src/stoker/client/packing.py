"""Archives whose bytes depend on names, contents and the executable bit alone: equal trees give equal digests.

The format is an uncompressed tar without times, owners or order of its own. The node unpacks it with
`stoker.images.archive`.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from stoker.client.gitignore import GitIgnore
from stoker.errors import InvalidRequest

_OF_TOOLS = ("node_modules", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".idea", ".vscode")
SKIPPED_DIRS = frozenset({"__pycache__", ".git", ".hg", ".svn", ".tox", ".nox", ".venv", ".eggs", *_OF_TOOLS})
SKIPPED_ENDINGS = (".pyc", ".pyo")


def pack(files: Iterable[tuple[str, Path]]) -> bytes:
    """Return the archive of ``(name in the archive, file)`` pairs; a symlink is kept as one.

    Raises:
        InvalidRequest: a file went away or cannot be read.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(files):
            try:
                _add(archive, name, path)
            except OSError as error:
                raise InvalidRequest(f"{path} cannot be read, so it cannot be shipped: {error.strerror}.") from error
    return out.getvalue()


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    info = tarfile.TarInfo(name)
    if path.is_symlink():
        info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, str(path.readlink())
        archive.addfile(info)
        return
    content = path.read_bytes()
    info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def walk(directory: Path, *, rules: GitIgnore | None = None, name: str = "") -> Iterator[tuple[str, Path, bool]]:
    """Yield ``(name, file, ignored)`` for each file below ``directory``; names start with ``name``.

    Caches, version control and virtual environments are left out, and so are sockets, devices and symlinks that lead
    out of the directory. With ``rules`` (paths as named here), further ``.gitignore`` files are read on the way,
    excluded directories are not entered and excluded files are marked.
    """
    root = os.path.realpath(directory)
    pending = [(directory, name, rules)]
    while pending:
        here, prefix, active = pending.pop()
        if active is not None and (extra := here / ".gitignore").is_file():
            active = active.extended(prefix, extra.read_text(encoding="utf-8", errors="replace"))
        for item in sorted(_entries(here), key=lambda entry: entry.name):
            inner = f"{prefix}/{item.name}" if prefix else item.name
            if item.is_dir(follow_symlinks=False):
                excluded = active is not None and active.ignores(inner, is_dir=True)
                if not excluded and not _skips(item):
                    pending.append((Path(item.path), inner, active))
            elif _ships(item, root):
                yield inner, Path(item.path), active is not None and active.ignores(inner, is_dir=False)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except OSError as error:
        raise InvalidRequest(f"{directory} cannot be read, so it cannot be shipped: {error.strerror}.") from error


def _skips(item: os.DirEntry[str]) -> bool:
    return item.name in SKIPPED_DIRS or os.path.isfile(f"{item.path}/pyvenv.cfg")  # noqa: PTH113


def _ships(item: os.DirEntry[str], root: str) -> bool:
    if item.name.endswith(SKIPPED_ENDINGS):
        return False
    if not item.is_symlink():
        return item.is_file()
    link = Path(item.path)
    inside = os.path.realpath(item.path).startswith(root + os.sep)
    return inside and not link.readlink().is_absolute()

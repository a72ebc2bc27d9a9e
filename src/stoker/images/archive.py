"""Unpacking what clients ship: only plain files, directories and symlinks, and never outside of the destination."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from stoker.errors import InvalidRequest


def unpack(archive: bytes | memoryview, dest: Path) -> list[str]:
    """Unpack an archive into ``dest``, which is made; the names of its files.

    Raises:
        InvalidRequest: it is no archive, or a member would lie outside of ``dest``; nothing of that member is written.
    """
    dest.mkdir(parents=True, exist_ok=True)
    root = dest.resolve()
    names = []
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as opened:
            for member in opened:
                _extract(opened, member, root)
                names.append(member.name)
    except tarfile.TarError as error:
        raise InvalidRequest(f"The archive is damaged: {error}.") from error
    return names


def unpack_once(archive: bytes | memoryview, dest: Path) -> Path:
    """Unpack into ``dest`` unless it is there already: it appears whole or not at all; ``dest`` is returned."""
    if dest.is_dir():
        return dest
    dest.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{dest.name[:40]}-", dir=dest.parent))
    try:
        unpack(archive, made)
        made.rename(dest)
    except OSError:
        if not dest.is_dir():  # another process was first: its tree has the same content
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return dest


def _extract(opened: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    target = _inside(root, root / member.name, member.name)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        _inside(root, target.parent / member.linkname, member.name)
        target.symlink_to(member.linkname)
        return
    content = opened.extractfile(member) if member.isreg() else None
    if content is None:
        raise InvalidRequest(f"The archive's member {member.name!r} is neither file, directory nor symlink: refused.")
    with open(target, "xb") as out:  # noqa: PTH123 - "x": never through a symlink that the archive made itself
        shutil.copyfileobj(content, out)
        os.fchmod(out.fileno(), 0o755 if member.mode & 0o100 else 0o644)


def _inside(root: Path, target: Path, name: str) -> Path:
    lexical = Path(os.path.normpath(target))
    resolved = lexical.parent.resolve() / lexical.name
    if lexical == root or root not in lexical.parents or root not in resolved.parents:
        raise InvalidRequest(f"The archive's member {name!r} would lie outside of its directory: refused.")
    return resolved

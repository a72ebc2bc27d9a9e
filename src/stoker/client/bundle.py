"""The bundle: a snapshot of the user's own source, addressed by its content.

It holds the entry module and the first-party modules and packages that it imports, directly or through each other:
packages whole, with their data files, single modules alone. Names in the archive are import paths, so its root goes on
``sys.path``. Equal sources give equal digests.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

from stoker.client.first_party import Imports, TopLevel, imports_of, is_first_party, locate
from stoker.client.gitignore import outer_rules
from stoker.client.packing import pack, walk
from stoker.errors import InvalidRequest

MAX_BUNDLE_BYTES = 100_000_000
LARGEST_SHOWN = 5

_EXTENSIONS = tuple(EXTENSION_SUFFIXES)
_Stamp = tuple[int, int]
_scanned: dict[Path, tuple[_Stamp, Imports]] = {}
_packed: dict[tuple[tuple[str, str, _Stamp], ...], tuple[str, bytes]] = {}
_PACKED_KEPT = 4  # archives remembered by a process: each of them may have up to MAX_BUNDLE_BYTES


@dataclass(frozen=True)
class Bundle:
    """``module`` is the name to import the entry by (empty without one); ``listing`` has (name, bytes) of each file."""

    digest: str
    archive: bytes
    listing: tuple[tuple[str, int], ...]
    module: str = ""
    sources: tuple[Path, ...] = ()


def build_bundle(entry: ModuleType | str | Path | None, extra_modules: Iterable[str] = ()) -> Bundle:
    """Snapshot what ``entry`` needs of the user's own source.

    ``entry`` is a module or its name (``__main__`` included), a script's path, or None (a notebook); ``extra_modules``
    are names of further first-party modules, such as those imported by a computed name.

    Raises:
        InvalidRequest: the entry has no source file, or the bundle is over 100 MB; the largest files are listed.
    """
    module, roots = _entry(entry)
    beside = tuple(str(top.file.parent) for top in roots if top.file is not None)
    found: dict[str, Path] = {}
    words: set[str] = set()
    ignored: dict[str, Path] = {}
    pending = [*roots, *_located(extra_modules)]
    seen = {top.name for top in pending}
    while pending:
        for name, path, is_ignored in _files(pending.pop()):
            if is_ignored:
                ignored[name] = path
                continue
            found.setdefault(name, path)
            if name.endswith(".py"):
                imports = _imports(path)
                words |= imports.words
                for top in sorted(imports.top_level - seen):
                    seen.add(top)
                    if (place := locate(top, importer=path, beside=beside)) is not None:
                        pending.append(place)
    # An ignored file that the code imports by name (a generated _version.py) is needed to run it.
    found.update((name, path) for name, path in ignored.items() if name.endswith(".py") and path.stem in words)
    return _packed_bundle(module, found)


def module_files(name: str) -> list[tuple[str, Path]]:
    """Return ``(name in an archive, file)`` of one first-party module or package, for `Image.add_local_python_source`.

    Raises:
        InvalidRequest: there is no such module, or it is an installed one.
    """
    top_name = name.split(".", maxsplit=1)[0]
    top = locate(top_name)
    if top is None:
        raise InvalidRequest(
            f"There is no module {name!r} of your own on sys.path. "
            "Installed packages go into an image by pip_install()."
        )
    return [(inner, path) for inner, path, ignored in _files(top) if not ignored]


def whole_files(tops: Iterable[TopLevel]) -> dict[str, Path]:
    """Return the files of modules and packages by import path, without those that they import from elsewhere.

    What ``.gitignore`` excludes stays out, but for what they need to run: Python files that they import by name, and
    extension modules built in place.
    """
    found: dict[str, Path] = {}
    ignored: dict[str, Path] = {}
    for name, path, is_ignored in (file for top in tops for file in _files(top)):
        (ignored if is_ignored else found).setdefault(name, path)
    words = {word for name, path in found.items() if name.endswith(".py") for word in _imports(path).words}
    for name, path in ignored.items():
        if name.endswith(_EXTENSIONS) or (name.endswith(".py") and path.stem in words):
            found.setdefault(name, path)
    return found


def _entry(entry: ModuleType | str | Path | None) -> tuple[str, list[TopLevel]]:
    if entry is None:
        return "", []
    if isinstance(entry, Path):
        return _script(entry)
    module = sys.modules.get(entry) if isinstance(entry, str) else entry
    name = entry if isinstance(entry, str) else entry.__name__
    if name == "__main__":
        spec = getattr(module, "__spec__", None)
        if spec is None:
            return _script(Path(_source_of(module, name)))
        name = spec.name
    top_name = name.split(".", maxsplit=1)[0]
    top = locate(top_name)
    if top is None and "." not in name and module is not None:
        source = Path(_source_of(module, name)).resolve()
        if is_first_party(str(source)):
            return _script(source, name=name)  # loaded by path, found nowhere on sys.path
    if top is None:
        raise InvalidRequest(f"The module {name!r} is not your own source, so it cannot be bundled.")
    return name, [top]


def _script(path: Path, *, name: str = "") -> tuple[str, list[TopLevel]]:
    file = path.resolve()
    if not file.is_file():
        raise InvalidRequest(f"There is no file {path}.")
    name = name or file.stem.replace(".", "_")
    return name, [TopLevel(name, file=file)]


def _source_of(module: ModuleType | None, name: str) -> str:
    file = getattr(module, "__file__", None)
    if not file:
        raise InvalidRequest(f"{name} has no source file: its functions travel by value, and so need no bundle.")
    return str(file)


def _located(names: Iterable[str]) -> Iterator[TopLevel]:
    for name in dict.fromkeys(full.split(".", maxsplit=1)[0] for full in names):
        if (top := locate(name)) is not None:
            yield top


def _files(top: TopLevel) -> Iterator[tuple[str, Path, bool]]:
    if top.file is not None:
        yield (top.file.name if top.file.suffix == ".so" else f"{top.name}.py"), top.file, False
        return
    for directory in top.directories:
        rules = outer_rules(directory.parent)
        nested = directory.parent / ".gitignore"
        if nested.is_file():
            rules = rules.extended("", nested.read_text(encoding="utf-8", errors="replace"))
        yield from walk(directory, rules=rules, name=top.name)


def _imports(path: Path) -> Imports:
    found = path.stat()
    stamp = (found.st_mtime_ns, found.st_size)
    known = _scanned.get(path)
    if known is None or known[0] != stamp:
        known = (stamp, imports_of(path.read_bytes()))
        _scanned[path] = known
    return known[1]


def _packed_bundle(module: str, files: dict[str, Path]) -> Bundle:
    stamps = []
    listing = []
    for name, path in sorted(files.items()):
        found = path.lstat()
        stamps.append((name, str(path), (found.st_mtime_ns, found.st_size)))
        listing.append((name, found.st_size))
    _check_size(listing)
    key = tuple(stamps)
    if key not in _packed:
        archive = pack(files.items())
        while len(_packed) >= _PACKED_KEPT:
            del _packed[next(iter(_packed))]
        _packed[key] = (hashlib.sha256(archive).hexdigest(), archive)
    digest, archive = _packed[key]
    return Bundle(digest, archive, tuple(listing), module, tuple(files[name] for name, _ in listing))


def _check_size(listing: list[tuple[str, int]]) -> None:
    total = sum(size for _, size in listing)
    if total <= MAX_BUNDLE_BYTES:
        return
    largest = sorted(listing, key=lambda item: -item[1])[:LARGEST_SHOWN]
    lines = "".join(f"\n  {size / 1e6:8.1f} MB  {name}" for name, size in largest)
    raise InvalidRequest(
        f"Your source has {total / 1e6:.0f} MB, more than the {MAX_BUNDLE_BYTES / 1e6:.0f} MB that a bundle may have. "
        f"Move data out of your packages, or name it in .gitignore. The largest files:{lines}"
    )

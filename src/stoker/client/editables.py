"""The source of distributions that are installed editable: their modules and packages, wherever those lie.

What puts them on the path is a ``.pth`` file with directories in it (hatchling, flit, poetry, uv, setuptools for most
layouts) or one that imports a finder (setuptools for others), which then knows the top-level names of the metadata.
The files go below a directory of their own, which a ``.pth`` file of the wheel puts on the path there as well: two
projects with a ``tests`` each do not meet.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution
from pathlib import Path

from stoker.client.bundle import whole_files
from stoker.client.first_party import TopLevel
from stoker.client.gitignore import outer_rules
from stoker.client.packing import SKIPPED_DIRS
from stoker.errors import StokerError

LOOKED_AT_MAX = 10_000  # entries of a directory without an __init__.py, to see whether there is Python in it at all


class SourceUnknown(StokerError):
    """A distribution is installed editable, and nothing says where its modules are."""


def text_of(distribution: Distribution, file: str) -> str | None:
    """Return a file of a distribution's metadata; what is not UTF-8, as old ones may be, is read all the same."""
    try:
        return distribution.read_text(file)
    except UnicodeDecodeError as error:
        return error.object.decode("latin-1")


def editable_files(name: str, distribution: Distribution) -> dict[str, Path]:
    """Return the source files of an editable distribution by import path. `.gitignore` is respected as in bundles.

    Raises:
        SourceUnknown: where they are is not said, or they are not there.
        InvalidRequest: a directory cannot be read.
    """
    directories = list(_directories(distribution))
    declared = (text_of(distribution, "top_level.txt") or "").split()
    if declared:
        tops = [top for one in declared if (top := _located(one, directories)) is not None]
    else:
        tops = [top for directory in directories for top in _importable(directory)]
    if (declared and not tops) or (not declared and not directories):
        raise SourceUnknown(
            f"{name} is installed editable, in a way that does not say where its source is, or it is not there any "
            "more. Install it without -e (--editable)."
        )
    return whole_files(tops)


def _directories(distribution: Distribution) -> Iterator[Path]:
    """Yield what its ``.pth`` files put on the path; for metadata in a source tree, that tree."""
    home = Path(str(distribution.locate_file("")))
    if text_of(distribution, "METADATA") is None:
        yield home
    for file in distribution.files or ():
        if len(file.parts) == 1 and file.suffix == ".pth" and (home / file).is_file():
            for line in (home / file).read_text(encoding="utf-8", errors="replace").splitlines():
                if line.strip() and not line.startswith(("#", "import ", "import\t")):
                    place = home / line.strip()
                    if place.is_dir():
                        yield place


def _located(top: str, directories: Iterable[Path]) -> TopLevel | None:
    for directory in directories:
        for found in _importable(directory, only=top):
            return found
    try:
        spec = importlib.util.find_spec(top)  # of a top-level name: imports nothing
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    places = [Path(os.path.realpath(place)) for place in spec.submodule_search_locations or ()]
    if places:
        return TopLevel(top, directories=tuple(place for place in places if place.is_dir()))
    return TopLevel(top, file=Path(spec.origin)) if spec.origin and Path(spec.origin).is_file() else None


def _importable(directory: Path, *, only: str = "") -> Iterator[TopLevel]:
    """Yield the modules and packages right below a directory; data directories beside them are none."""
    rules = outer_rules(directory)
    if (own := directory / ".gitignore").is_file():
        rules = rules.extended("", own.read_text(encoding="utf-8", errors="replace"))
    for path in sorted(directory.iterdir()):
        top = path.name.split(".", maxsplit=1)[0]
        if not top.isidentifier() or (only and top != only) or path.name in SKIPPED_DIRS:
            continue
        if path.is_file() and path.name in {f"{top}.py"} | ({path.name} if path.suffix == ".so" else set()):
            yield TopLevel(top, file=path)
        elif path.is_dir() and path.name == top and not rules.ignores(top, is_dir=True) and _has_python(path):
            yield TopLevel(top, directories=(path,))


def _has_python(directory: Path) -> bool:
    if (directory / "__init__.py").is_file():
        return True
    if (directory / "pyvenv.cfg").is_file():
        return False
    looked = 0
    for _, inner, names in os.walk(directory):
        if any(name.endswith((".py", ".so")) for name in names):
            return True
        inner[:] = [name for name in inner if name not in SKIPPED_DIRS]
        looked += len(names) + len(inner)
        if looked > LOOKED_AT_MAX:
            return False
    return False

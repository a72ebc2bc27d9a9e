"""Which modules are the user's own, and where their files lie.

A module is first-party unless it belongs to Python, to an installed distribution, or to Stoker.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

import stoker

_INSTALLED = frozenset({"site-packages", "dist-packages"})
_OWN = frozenset({"stoker", "cloudpickle", "threadpoolctl"})
_STDLIB = os.path.realpath(os.path.dirname(os.__file__))  # noqa: PTH120
_STOKER = os.path.realpath(os.path.dirname(stoker.__file__ or ""))  # noqa: PTH120

_IMPORT = re.compile(
    rb"^[^#\n]*?\b(?:from[ \t]+(?P<source>[.\w]+)[ \t]+import\b|import[ \t]+(?P<names>[\w., \t]+)"
    rb"|(?:import_module|__import__)\([ \t]*[\"'](?P<text>[.\w]+))(?P<rest>[^\n]*)",
    re.MULTILINE,
)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class TopLevel:
    """A top-level module (``file``), or a package (``directories``, several for a namespace package)."""

    name: str
    file: Path | None = None
    directories: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Imports:
    """What one source file imports: top-level names, and every word on its import lines."""

    top_level: frozenset[str]
    words: frozenset[str]


def locate(name: str, *, importer: Path | None = None, beside: tuple[str, ...] = ()) -> TopLevel | None:
    """Return where the top-level module ``name`` is, None where it is not first-party or not there at all.

    ``beside`` are directories to search before ``sys.path``: the script's own. A directory without ``__init__.py``
    counts only where ``importer`` really imports it: the quick scan also sees imports in comments and strings.
    """
    if name in _OWN or (name in sys.stdlib_module_names and name not in sys.modules):
        return None
    spec = _spec_of(name, beside)
    if spec is None:
        return None
    places = [os.path.realpath(place) for place in spec.submodule_search_locations or ()]
    if places:
        own = tuple(Path(place) for place in places if is_first_party(place) and os.path.isdir(place))  # noqa: PTH112
        if spec.origin is None and (importer is not None and name not in _exact_imports(importer)):
            return None
        return TopLevel(name, directories=own) if own else None
    origin = spec.origin
    if origin is None or not spec.has_location or not is_first_party(os.path.realpath(origin)):
        return None
    return TopLevel(name, file=Path(origin)) if os.path.isfile(origin) else None  # noqa: PTH113


def imports_of(source: bytes) -> Imports:
    """Return what a source file imports, by a quick scan that may name too much and misses only computed names."""
    top_level: set[str] = set()
    words: set[str] = set()
    for found in _IMPORT.finditer(source):
        dotted = (found["source"] or found["names"] or found["text"]).decode(errors="replace")
        words.update(_WORD.findall(dotted + " " + found["rest"].decode(errors="replace")))
        for part in dotted.split(","):
            first = part.strip().split(" ")[0].split(".")[0]
            if first:
                top_level.add(first)
    return Imports(frozenset(top_level), frozenset(words))


def _spec_of(name: str, beside: tuple[str, ...]) -> ModuleSpec | None:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(spec, ModuleSpec):
        return spec
    try:
        return (PathFinder.find_spec(name, beside) if beside else None) or importlib.util.find_spec(name)
    except (ValueError, ImportError, AttributeError):
        return None


@lru_cache(maxsize=4096)
def is_first_party(path: str) -> bool:
    """Tell whether a file (its real path) is the user's own."""
    if not _INSTALLED.isdisjoint(Path(path).parts):
        return False
    return not any(path == root or path.startswith(root + os.sep) for root in (_STOKER, _STDLIB))


def _exact_imports(file: Path) -> frozenset[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return frozenset(names)

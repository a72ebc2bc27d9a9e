"""The Python interpreters of this machine.

Looked for, without starting uv: ``$STOKER_PYTHONS`` (explicit paths, ``:`` between them), Stoker's own, uv's managed
ones, pyenv's ``versions/*/bin``, conda's environments, the ``PATH``. Each is asked for its version once; the answers
are kept on disk by the binary's path, size and time of change.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import InterpreterNotFound

NODE_CHARACTERS = 12  # of a node's id: enough to tell nodes of one host apart
OLDEST_MINOR = 10
NEWEST_MINOR = 20  # names are probed, so that a large /usr/bin need not be listed
QUERY_TIMEOUT_S = 10.0
_QUERY = "import sys;v=sys.version_info;print('%d.%d.%d' % v[:3], v[3], sys.implementation.name)"
_NAMES = (*(f"python3.{minor}" for minor in range(OLDEST_MINOR, NEWEST_MINOR + 1)), "python3", "python")
_CONDA_HOMES = ("miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba")


@dataclass(frozen=True)
class Interpreter:
    """``version`` is full (``3.12.1``); ``path`` starts it; ``source`` says who found it."""

    version: str
    path: str
    source: str

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("."))


class Interpreters:
    """The interpreters that can be found, newest first.

    ``cache`` is a file of this object's own; ``node`` is what errors call the machine.
    """

    def __init__(self, cache: Path, *, environ: Mapping[str, str] | None = None, node: str = "this node") -> None:
        self._cache = cache
        self._node = node
        self._environ = os.environ if environ is None else environ

    def all(self) -> list[Interpreter]:
        """Return every CPython from 3.10 on; of several of one version, the first in the order of the module's list."""
        known = self._load()
        candidates: dict[str, str] = {}
        for source, path in _candidates(self._environ):
            candidates.setdefault(path, source)
        stamps = {path: stamp for path in candidates if (stamp := _stamp(path))}
        missing = [path for path, stamp in stamps.items() if known.get(path, ("", ""))[0] != stamp]
        if missing:
            with ThreadPoolExecutor(max_workers=4) as pool:
                answers = list(pool.map(_ask, missing))
            known = {path: entry for path, entry in known.items() if path in stamps}
            known.update({path: (stamps[path], answer) for path, answer in zip(missing, answers, strict=True)})
            self._save(known)
        by_version: dict[str, Interpreter] = {}
        for path in stamps:
            if version := known[path][1]:
                by_version.setdefault(version, Interpreter(version, path, candidates[path]))
        return sorted(by_version.values(), key=lambda found: found.numbers, reverse=True)

    def find(self, version: str) -> Interpreter:
        """Return the newest interpreter of ``"3.12"``, that of ``"3.12.1"``, or that at a path.

        Raises:
            InterpreterNotFound: there is none; the message lists those there are.
        """
        if "/" in version:
            if found := _ask(version):
                return Interpreter(found, version, "named by the image")
            raise InterpreterNotFound(
                f"{version} is no Python from 3.{OLDEST_MINOR} on, on {self._node}. {self._listed()}"
            )
        for interpreter in self.all():
            if interpreter.version == version or interpreter.version.startswith(version + "."):
                return interpreter
        raise InterpreterNotFound(f"There is no Python {version} on {self._node}. {self._listed()}")

    def _listed(self) -> str:
        found = "".join(f"\n  {item.version:9} {item.path}" for item in self.all())
        advice = (
            "Ask for one of these, install it (`uv python install`, pyenv, conda or the system's packages), or name "
            "its path in STOKER_PYTHONS there."
        )
        return f"{advice} There are:{found or ' none'}"

    def _load(self) -> dict[str, tuple[str, str]]:
        try:
            read = json.loads(self._cache.read_text())
            return {str(path): (str(entry[0]), str(entry[1])) for path, entry in read.items()}
        except (OSError, ValueError, AttributeError, IndexError, TypeError):
            return {}  # absent or damaged: it is only a cache

    def _save(self, known: dict[str, tuple[str, str]]) -> None:
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        draft = self._cache.with_name(f".{self._cache.name}.{os.getpid()}")
        draft.write_text(json.dumps(known, indent=1))
        draft.replace(self._cache)


def shown_node(node: str) -> str:
    """Return how errors call a node: by its id, where it is not the only one, and the host's name."""
    host = platform.node() or "unnamed"
    return f"this node ({host})" if node in {"", "local", host} else f"node {host} ({node[:NODE_CHARACTERS]})"


def _candidates(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for path in filter(None, environ.get("STOKER_PYTHONS", "").split(":")):
        yield "STOKER_PYTHONS", path
    for source, directory in _directories(environ):
        for name in _NAMES:
            path = f"{directory}/{name}"
            if os.path.exists(path):  # noqa: PTH110 - some hundred times: see the module's target
                yield source, path
                if source != "PATH":  # such a directory has one Python, under several names
                    break


def _directories(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    home = Path(environ.get("HOME") or "/")
    yield "Stoker's own", f"{sys.base_prefix}/bin"
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    managed = Path(environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    yield from (("uv", f"{inner}/bin") for inner in _inner(managed))
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv")
    yield from (("pyenv", f"{inner}/bin") for inner in _inner(pyenv / "versions"))
    yield from (("conda", f"{prefix}/bin") for prefix in dict.fromkeys(_conda_prefixes(environ, home)))
    for entry in dict.fromkeys([*environ.get("PATH", "").split(":"), "/usr/local/bin", "/usr/bin"]):
        if entry.startswith("/") and entry != str(pyenv / "shims"):  # a shim answers for whatever is selected just now
            yield "PATH", entry


def _conda_prefixes(environ: Mapping[str, str], home: Path) -> Iterator[str]:
    if active := environ.get("CONDA_PREFIX"):
        yield active
    for base in (*(home / name for name in _CONDA_HOMES), Path("/opt/conda"), Path("/opt/miniconda3")):
        yield str(base)
        yield from _inner(base / "envs")
    try:
        yield from filter(None, (home / ".conda" / "environments.txt").read_text().splitlines())
    except OSError:
        return


def _inner(directory: Path) -> Iterable[str]:
    try:
        return sorted((item.path for item in os.scandir(directory) if item.is_dir()), reverse=True)
    except OSError:
        return ()


def _stamp(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


def _ask(path: str) -> str:
    """Return the version that an interpreter reports, empty for what is no CPython of a version we run."""
    try:
        done = subprocess.run(
            [path, "-I", "-S", "-c", _QUERY], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    words = done.stdout.split()
    if done.returncode != 0 or len(words) < 3 or words[1] != "final" or words[2] != "cpython":
        return ""
    numbers = re.fullmatch(r"3\.(\d+)\.\d+", words[0])
    return words[0] if numbers and int(numbers[1]) >= OLDEST_MINOR else ""

"""Environments on a disk: what is ready, who holds it, what may go.

<root>/<key>/            an environment, at its final path from the first byte
    .ready               its description; without this file it does not exist
    .recipe              the recipe it is built from, while it is built
    bin, lib, pyvenv.cfg the virtual environment
    requirements.lock    what was installed
    files, source        what add_local_* put there
<root>/recipes/<id>      the key of the environment that a recipe has become
<root>/locks/<id>.txt    the lock of a recipe; it outlives the environment, so that a rebuild installs the same
<root>/guards/           lock files: <id>.build while building, <key>.use while in use
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType

from stoker.errors import NotFound
from stoker.images.file_locks import take_shared, try_exclusive

READY = ".ready"
RECIPE = ".recipe"
LOCK_FILE = "requirements.lock"
# The last two would have each process compile the environment's packages anew.
_NOT_INHERITED = (
    *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
)


@dataclass(frozen=True)
class Environment:
    """A usable environment.

    ``sys_path`` goes before the interpreter's own search path; with ``is_local`` it *is* the search path. ``variables``
    are those of the image; ``size`` is in bytes and counts files shared with uv's cache too.
    """

    key: str
    directory: str
    python: str
    python_version: str
    sys_path: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    files: str = ""
    created: float = 0.0
    size: int = 0
    recipe: str = ""
    is_local: bool = False

    @property
    def lock(self) -> str:
        """What was installed, one pinned requirement a line."""
        try:
            return (Path(self.directory) / LOCK_FILE).read_text(encoding="utf-8") if self.directory else ""
        except FileNotFoundError:
            return ""

    @property
    def packages(self) -> list[str]:
        """The names of what was installed."""
        return [line.split("==")[0].strip() for line in self.lock.splitlines() if "==" in line[:80]]

    def process_env(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return the environment variables of a process in this environment, whose parent has ``base``."""
        if self.is_local:
            return {**base, **self.variables}
        kept = {name: value for name, value in base.items() if name not in _NOT_INHERITED}
        kept["PATH"] = f"{Path(self.python).parent}:{base.get('PATH', os.defpath)}"
        kept["VIRTUAL_ENV"] = self.directory
        if self.sys_path:
            kept["PYTHONPATH"] = os.pathsep.join(self.sys_path)
        return {**kept, **self.variables}

    def hold(self) -> Hold:
        """Keep this environment from being pruned until the hold is released or this process ends.

        Raises:
            NotFound: it was pruned just now; have it built again.
        """
        if not self.directory:
            return Hold(self, None)
        directory = Path(self.directory)
        guard = directory.parent / "guards" / f"{self.key}.use"
        fd = take_shared(guard)
        if not (directory / READY).exists():
            os.close(fd)
            raise NotFound(f"The environment {self.key} was removed just now. Ask for it again: it is then rebuilt.")
        os.utime(fd)  # what `prune` goes by
        return Hold(self, fd)


class Hold:
    """A claim on an environment, for as long as the block runs or until `release`."""

    def __init__(self, environment: Environment, fd: int | None) -> None:
        self.environment = environment
        self._fd = fd

    def release(self) -> None:
        """Give the claim back; harmless when done twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> Environment:
        return self.environment

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


@dataclass(frozen=True)
class Listed:
    """An environment on this disk. ``last_used`` is when it was last held, in seconds since 1970."""

    environment: Environment
    last_used: float
    in_use: bool


def read_environment(directory: Path) -> Environment | None:
    """Return the environment at ``directory``, None unless it is ready and its interpreter is still there."""
    try:
        read = json.loads((directory / READY).read_bytes())
        environment = Environment(**read)
    except (OSError, ValueError, TypeError):
        return None
    return environment if os.path.exists(environment.python) else None  # noqa: PTH110


def make_ready(environment: Environment) -> Environment:
    """Measure a built environment and make it usable: durable and in one step."""
    directory = Path(environment.directory)
    made = replace(environment, size=_size_of(directory))
    draft = directory / f"{READY}.draft"
    with draft.open("w", encoding="utf-8") as out:
        json.dump(asdict(made), out)
        out.flush()
        os.fsync(out.fileno())
    draft.rename(directory / READY)
    return made


def list_environments(root: Path) -> list[Listed]:
    """Return the environments below ``root`` that are ready, most recently used first."""
    found = []
    for directory in _directories(root):
        environment = read_environment(directory)
        if environment is not None:
            guard = root / "guards" / f"{environment.key}.use"
            used = guard.stat().st_mtime if guard.exists() else environment.created
            found.append(Listed(environment, used, _is_held(guard)))
    return sorted(found, key=lambda item: -item.last_used)


def lock_text(root: Path, key: str) -> str:
    """Return the lock of the environment with this key, or whose key starts so.

    Raises:
        NotFound: there is none, or more than one.
    """
    keys = [item.environment for item in list_environments(root) if item.environment.key.startswith(key)]
    if len(keys) != 1:
        listed = ", ".join(item.environment.key[:12] for item in list_environments(root)) or "none"
        problem = "No environment has" if not keys else "More than one environment has"
        raise NotFound(f"{problem} a key that starts with {key!r}. There are: {listed}.")
    return keys[0].lock


def prune(
    root: Path,
    *,
    older_than: float = 0.0,
    keep: Collection[str] = (),
    locks: bool = False,
    dry_run: bool = False,
    clock: Callable[[], float] = time.time,
) -> list[Environment]:
    """Remove environments that were last used more than ``older_than`` seconds ago; what was removed.

    One that is held, or named in ``keep``, stays. Left-overs of builds that died go as well. With ``locks``, the locks
    of removed environments go too, so that the next build resolves afresh. With ``dry_run`` nothing is removed.
    """
    removed = []
    for item in list_environments(root):
        environment = item.environment
        if environment.key in keep or clock() - item.last_used < older_than:
            continue
        if dry_run:
            removed += [] if item.in_use else [environment]
            continue
        if _remove(root, environment):
            removed.append(environment)
            if locks:
                (root / "locks" / f"{environment.recipe}.txt").unlink(missing_ok=True)
    for directory in [] if dry_run else _directories(root):
        _remove_left_over(root, directory)
    return removed


def _remove(root: Path, environment: Environment) -> bool:
    guard = root / "guards" / f"{environment.key}.use"
    fd = try_exclusive(guard)
    if fd is None:
        return False
    try:
        directory = Path(environment.directory)
        (directory / READY).unlink(missing_ok=True)  # first: from here on nobody takes it for usable
        shutil.rmtree(directory, ignore_errors=True)
        guard.unlink(missing_ok=True)
    finally:
        os.close(fd)
    return True


def _remove_left_over(root: Path, directory: Path) -> None:
    if (directory / READY).exists():
        return
    try:
        recipe = (directory / RECIPE).read_text()
    except OSError:
        recipe = directory.name
    guard = root / "guards" / f"{recipe}.build"
    fd = try_exclusive(guard)
    if fd is None:
        return  # it is being built
    try:
        if not (directory / READY).exists():
            shutil.rmtree(directory, ignore_errors=True)
        guard.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _is_held(guard: Path) -> bool:
    if not guard.exists():
        return False
    fd = try_exclusive(guard)
    if fd is not None:
        os.close(fd)
    return fd is None


def _directories(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [path for path in sorted(root.iterdir()) if len(path.name) == 32 and path.is_dir()]


def _size_of(directory: Path) -> int:
    total = 0
    for here, _, names in os.walk(directory):
        for name in names:
            total += os.lstat(f"{here}/{name}").st_size
    return total

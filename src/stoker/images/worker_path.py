"""The directory at the end of every worker's ``sys.path``: Stoker and the two packages its workers need, nothing else.

It holds symlinks into Stoker's own installation. The rest of that installation (the server's dependencies) never shows
in a user's environment, and the user's own packages come first.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import stoker
from stoker._version import __version__
from stoker.errors import StokerError

_SHARED = ("cloudpickle", "threadpoolctl")


def ensure_worker_path(home: Path) -> Path:
    """Return the directory below ``home``, made if it is missing, or if a link in it leads nowhere any more."""
    targets = _targets()
    directory = home / "worker-path" / f"{__version__}-{_digest(targets)}"
    if not _intact(directory, targets):
        _make(directory, targets)
    return directory


@lru_cache(maxsize=1)
def _targets() -> tuple[tuple[str, str], ...]:
    """Return (name, target) of each link."""
    found = [("stoker", os.path.dirname(os.path.abspath(stoker.__file__ or "")))]  # noqa: PTH100, PTH120
    for name in _SHARED:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise StokerError(
                f"Stoker's installation lacks {name}. Install it again: pip install --force-reinstall stoker"
            )
        places = list(spec.submodule_search_locations or [])
        target = places[0] if places else spec.origin
        found.append((os.path.basename(target), target))  # noqa: PTH119
    return tuple(found)


def _digest(targets: tuple[tuple[str, str], ...]) -> str:
    return hashlib.sha256(repr(targets).encode()).hexdigest()[:12]


def _intact(directory: Path, targets: tuple[tuple[str, str], ...]) -> bool:
    try:
        return all(
            os.readlink(f"{directory}/{name}") == target and os.path.exists(target)  # noqa: PTH110, PTH115
            for name, target in targets
        )
    except OSError:
        return False


def _make(directory: Path, targets: tuple[tuple[str, str], ...]) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=directory.parent))
    try:
        for name, target in targets:
            (made / name).symlink_to(target)
        if directory.is_dir() and not _intact(directory, targets):
            shutil.rmtree(directory, ignore_errors=True)
        made.rename(directory)
    except OSError:
        if not _intact(directory, targets):  # another process was first, and made the same
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)

"""Where Stoker keeps things, for client, agent and server alike.

``home`` holds what is shared by every run of this user and survives reboots: environments, blobs, the persistent
server's store and logs. ``runtime`` holds sockets and the directories of embedded runs, one each. ``segments`` is
shared memory. Every directory is made with mode 0700. Both roots can be set: ``STOKER_HOME``, ``STOKER_RUNTIME_DIR``.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from stoker.errors import StokerError

SHM_ROOT = Path("/dev/shm")
SCRATCH_VARIABLE = "STOKER_SCRATCH"  # in a worker: a directory of its own, not made yet, that goes with it


def home() -> Path:
    """Return the directory that outlives runs (``$STOKER_HOME``, else ``$XDG_DATA_HOME/stoker``)."""
    if chosen := os.environ.get("STOKER_HOME"):
        return private_dir(Path(chosen))
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return private_dir(Path(base) / "stoker")


def runtime() -> Path:
    """Return the directory of sockets and runs. Kept short: a Unix socket's path has at most 107 bytes."""
    if chosen := os.environ.get("STOKER_RUNTIME_DIR"):
        return private_dir(Path(chosen))
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        return private_dir(Path(base) / "stoker")
    return private_dir(Path(tempfile.gettempdir()) / f"stoker-{os.getuid()}")


def environments() -> Path:
    return private_dir(home() / "environments")


def blobs() -> Path:
    return private_dir(home() / "blobs")


def blob_cache() -> Path:
    """What this node has fetched from a remote blob store."""
    return private_dir(home() / "blob-cache")


def bundles() -> Path:
    """Unpacked bundles, by digest."""
    return private_dir(home() / "bundles")


def server_home() -> Path:
    """What the persistent server keeps: its store and its logs."""
    return private_dir(home() / "server")


def server_runtime() -> Path:
    """The persistent server's sockets."""
    return private_dir(runtime() / "server")


def server_segments(run_dir: Path, state_dir: Path) -> Path:
    """Where a persistent server keeps payload segments: those of several homes on one machine are apart."""
    if not SHM_ROOT.is_dir():
        return state_dir / "segments"
    return SHM_ROOT / f"stoker-{os.getuid()}-server-{hashlib.sha256(str(run_dir).encode()).hexdigest()[:8]}"


def runs() -> Path:
    """The directories of embedded runs, one each, held by a lock file while their owner lives."""
    return private_dir(runtime() / "runs")


def scratch(run_dir: Path) -> Path:
    """Where the workers of a run put what is to go with them, each in a directory named by its id."""
    tag = hashlib.sha256(str(run_dir).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"stoker-{os.getuid()}-{tag}"


def private_dir(path: Path) -> Path:
    """Make a directory of mode 0700 and return it.

    Raises:
        StokerError: it cannot be made, or is somebody else's, so that what is put there could be read or replaced.
    """
    if not path.is_dir():
        try:
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
        except OSError as error:
            raise StokerError(
                f"{path} cannot be made: {error.strerror}. Set STOKER_HOME (environments, blobs, stores) and "
                "STOKER_RUNTIME_DIR (sockets) to directories that you can write to."
            ) from None
    if path.stat().st_uid != os.getuid():
        raise StokerError(f"{path} belongs to another user. Set STOKER_RUNTIME_DIR or STOKER_HOME to one of your own.")
    return path

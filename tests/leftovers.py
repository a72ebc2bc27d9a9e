"""What a test may not leave behind: processes, sockets, run directories, shared memory."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

SHM = Path("/dev/shm")


def processes_of(place: Path) -> dict[int, str]:
    """Return the command lines, by pid, of processes that were started with ``place`` in their environment."""
    found = {}
    wanted = f"={place}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            if any(v.startswith(b"STOKER_") and wanted in v for v in variables) and not _is_zombie(entry):
                found[int(entry.name)] = _command(entry)
        except OSError:
            continue  # it has just ended, or is somebody else's
    return found


def files_of(runtime: Path) -> list[str]:
    """Return the sockets and the directories of embedded runs below a runtime directory."""
    runs = [str(run) for run in (runtime / "runs").glob("*")]
    # Not by `rglob`: before Python 3.13 it fails where a directory goes while it looks.
    files = [Path(place) / name for place, _, names in os.walk(runtime) for name in names]
    sockets = [str(path) for path in files if _is_socket(path)]
    return sorted({*runs, *sockets})


def segments() -> set[str]:
    """Return the names of all directories of payload segments of this user."""
    return {path.name for path in SHM.glob(f"stoker-{os.getuid()}-*")} if SHM.is_dir() else set()


def segments_of(runtime: Path, run_ids: set[str]) -> set[str]:
    """Return those of one runtime directory: its persistent server's, and those of the named embedded runs."""
    server = (runtime / "server").resolve()
    digest = hashlib.sha256(str(server).encode()).hexdigest()[:8]
    wanted = {f"stoker-{os.getuid()}-server-{digest}", *(f"stoker-{os.getuid()}-{run}" for run in run_ids)}
    return segments() & wanted


def of(runtime: Path) -> list[str]:
    """Return a line for everything that is left of what ran in ``runtime``."""
    lines = [f"process {pid}: {command}" for pid, command in processes_of(runtime).items()]
    lines += [f"file {path}" for path in files_of(runtime)]
    lines += [f"shared memory {SHM / name}" for name in segments_of(runtime, set())]
    return lines


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _command(entry: Path) -> str:
    return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:200]


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False

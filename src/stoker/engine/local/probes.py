"""What this machine can and cannot do for Stoker, and what follows from it: the facts behind ``stoker doctor``.

Each probe looks and changes nothing. None needs a server.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stoker import paths
from stoker.blobs.location import shown_address
from stoker.blobs.opening import check_blobs
from stoker.engine.local.config import BLOBS_VARIABLE
from stoker.engine.local.limits import choose_limits
from stoker.engine.local.node import node_size
from stoker.errors import StokerError
from stoker.images.interpreters import Interpreters
from stoker.quantities import format_size

OK, WARN, FAIL = "ok", "warn", "fail"
PROGRAM_TIMEOUT_SECONDS = 10.0
SHM_WANTED_BYTES = 1 << 30
DISK_WANTED_BYTES = 5 << 30
FILES_WANTED = 4096
WATCHES_WANTED = 8192
INSTANCES_WANTED = 64


@dataclass(frozen=True)
class Fact:
    """One thing about this machine. ``status``: ``ok`` · ``warn`` · ``fail``; ``meaning`` says what follows."""

    name: str
    status: str
    value: str
    meaning: str


def facts() -> list[Fact]:
    """Return all facts, in the order in which people should read them."""
    probes: list[Callable[[], Iterator[Fact]]] = [
        _system,
        _node,
        _limits,
        _interpreters,
        _uv,
        _shared_memory,
        _disk,
        _blobs,
        _open_files,
        _inotify,
        _namespaces,
        _overlay,
        _gpus,
    ]
    return [fact for probe in probes for fact in probe()]


def _system() -> Iterator[Fact]:
    linux = sys.platform == "linux"
    yield Fact(
        "system",
        OK if linux else FAIL,
        f"{os.uname().sysname} {os.uname().release}",
        "Workers run here." if linux else "Workers run on Linux only; a client can use a server elsewhere.",
    )
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        yield Fact("pidfd", FAIL, str(error), "The agent cannot see its workers end. Linux 5.3 or later is needed.")
    else:
        yield Fact("pidfd", OK, "available", "The end of every worker is seen at once.")


def _node() -> Iterator[Fact]:
    size = node_size()
    meaning = "What functions can be granted; STOKER_NODE_CPUS and STOKER_NODE_MEMORY make it another."
    yield Fact("capacity", OK, f"{size.cpus:g} CPUs, {format_size(size.memory)}", meaning)


def _limits() -> Iterator[Fact]:
    limits = choose_limits("doctor")
    if limits.mode == "watch":
        meaning = (
            f"No cgroup can be made ({limits.why}). Workers over their memory are noticed within a fraction of a "
            "second and ended, CPU is not weighted."
        )
        yield Fact("limits", WARN, "watching", meaning)
    else:
        meaning = "The kernel holds each worker to its memory, and weights CPU by what was granted."
        yield Fact("limits", OK, limits.mode.replace("cgroup", "cgroup v"), meaning)


def _interpreters() -> Iterator[Fact]:
    found = Interpreters(paths.environments() / "interpreters.json").all()
    versions = ", ".join(one.version for one in found)
    if found:
        yield Fact("interpreters", OK, versions, "Image.python() can name these; `uv python install` adds others.")
    else:
        yield Fact("interpreters", FAIL, "none", "No environment can be built. Install one: `uv python install 3.12`.")


def _uv() -> Iterator[Fact]:
    try:
        import uv

        output = subprocess.run(
            [uv.find_uv_bin(), "--version"], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_SECONDS, check=True
        ).stdout
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        yield Fact("uv", FAIL, str(error), "No environment can be built. Install Stoker again: it brings uv along.")
    else:
        yield Fact("uv", OK, output.strip(), "Environments are resolved, locked and built with it.")


def _shared_memory() -> Iterator[Fact]:
    if not paths.SHM_ROOT.is_dir():
        yield Fact("shared memory", WARN, "no /dev/shm", "Big arguments and results go through files on disk: slower.")
        return
    usage = shutil.disk_usage(paths.SHM_ROOT)
    enough = usage.free >= SHM_WANTED_BYTES
    meaning = (
        "Big arguments and results are mapped, not copied."
        if enough
        else "Little room for big arguments and results: past it they go to disk. In a container, raise --shm-size."
    )
    yield Fact("shared memory", OK if enough else WARN, f"{format_size(usage.free)} free", meaning)


def _disk() -> Iterator[Fact]:
    free = shutil.disk_usage(paths.home()).free
    enough = free >= DISK_WANTED_BYTES
    meaning = (
        "Environments, results and logs lie there." if enough else "An environment with torch needs more. Free some."
    )
    yield Fact("disk", OK if enough else WARN, f"{format_size(free)} free at {paths.home()}", meaning)


def _blobs() -> Iterator[Fact]:
    address = os.environ.get(BLOBS_VARIABLE, "")
    if not address:
        meaning = "Other machines do not reach them; --blobs puts them into a bucket."
        yield Fact("blobs", OK, "this machine's disk", meaning)
        return
    try:
        check_blobs(address)
    except StokerError as error:
        yield Fact("blobs", FAIL, shown_address(address), f"A server cannot start with it. {error}")
    else:
        meaning = "Bundles, and payloads of spawned calls, are kept there; one was written, read, listed and deleted."
        yield Fact("blobs", OK, shown_address(address), meaning)


def _open_files() -> Iterator[Fact]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard if hard != resource.RLIM_INFINITY else FILES_WANTED
    enough = limit >= FILES_WANTED
    meaning = (
        "Enough for thousands of workers and clients." if enough else "Bounds workers and clients. Raise `ulimit -n`."
    )
    yield Fact("open files", OK if enough else WARN, f"{soft} (at most {hard})", meaning)


def _inotify() -> Iterator[Fact]:
    root = Path("/proc/sys/fs/inotify")
    try:
        instances = int((root / "max_user_instances").read_text())
        watches = int((root / "max_user_watches").read_text())
    except (OSError, ValueError):
        yield Fact("inotify", WARN, "unknown", "Output of workers is polled for, which costs a little CPU.")
        return
    enough = instances >= INSTANCES_WANTED and watches >= WATCHES_WANTED
    meaning = "Output of workers comes at once." if enough else "Output may have to be polled. Raise fs.inotify.*."
    yield Fact("inotify", OK if enough else WARN, f"{instances} instances, {watches} watches", meaning)


def _namespaces() -> Iterator[Fact]:
    works = _succeeds(["unshare", "--user", "--map-root-user", "true"])
    meaning = "Sandboxes can be made without root." if works else "No sandboxes without root on this kernel."
    yield Fact("user namespaces", OK if works else WARN, "available" if works else "not available", meaning)


def _overlay() -> Iterator[Fact]:
    try:
        there = "overlay" in Path("/proc/filesystems").read_text()
    except OSError:
        there = False
    meaning = (
        "Images with system packages can be layered." if there else "System packages (apt_install) are out of reach."
    )
    yield Fact("overlay", OK if there else WARN, "available" if there else "not available", meaning)


def _gpus() -> Iterator[Fact]:
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    if devices:
        yield Fact("gpu", OK, f"{len(devices)} NVIDIA", "Seen, but not granted to functions by this version.")
    else:
        yield Fact("gpu", OK, "none", "Functions run on the CPU.")


def _succeeds(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROGRAM_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0

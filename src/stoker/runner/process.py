"""Makes a process a worker: session, cgroups, limits, log, environment, randomness; and ends it."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import os
import random
import resource
import signal
import sys
import warnings
from pathlib import Path

from stoker.protocol.zygotes import MARK_BLANK, WORKER_MARKER, Fork, ZygoteConfig
from stoker.runner import marks, pools
from stoker.runner.config import EXIT_SETUP

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def become_worker(order: Fork) -> None:
    """Take the log, the cgroups and the limits of a worker; a process that cannot ends, with the reason in its log."""
    with contextlib.suppress(PermissionError):  # we lead a session already: the agent started us in one
        os.setsid()
    _open_log(order.log)
    with contextlib.suppress(OSError):  # where the kernel keeps us from our own memory, its agent goes by less
        marks.show(WORKER_MARKER, order.worker, blank=MARK_BLANK)
    try:
        for path in order.cgroups:
            Path(path).write_text(str(os.getpid()))
        for name, value in order.rlimits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    except (OSError, ValueError, AttributeError) as error:
        # Without its limits a worker could take its neighbours down, so there is none.
        os.write(2, f"stoker: this worker could not be confined to its grant: {error}\n".encode())
        os._exit(EXIT_SETUP)
    os.environ.update(order.env)
    if not faulthandler.is_enabled():
        faulthandler.enable(file=2)
    # Our control thread makes every fork of user code one of a process with threads: it holds no lock that matters
    # there.
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)


def _open_log(path: str) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    for fd in {null, log} - {0, 1, 2}:
        os.close(fd)


def set_thread_environment(config: ZygoteConfig, order: Fork) -> dict[str, str]:
    """Give the libraries that are loaded from now on the worker's cores, and return the variables that say so."""
    chosen = {**config.env, **order.env}
    environment = pools.thread_environment(order.cpus, chosen=chosen, inherited=config.thread_env)
    os.environ.update(environment)
    return environment


def reseed() -> None:
    """Draw new randomness: all workers forked from one zygote would draw the same numbers."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None and hasattr(numpy_random, "seed"):
        numpy_random.seed()
    torch_random = sys.modules.get("torch.random")
    if torch_random is not None and hasattr(torch_random, "default_generator"):
        torch_random.default_generator.seed()


def reasons_against_fork(*, has_hooks: bool = False) -> tuple[int, str]:
    """Return the number of OS threads, and why this process cannot be forked; empty if it can."""
    or_hook, loaded = (" or an enter(snapshot=True) hook", "loaded") if has_hooks else ("", "imported")
    tasks = [Path(f"/proc/self/task/{task}") for task in os.listdir("/proc/self/task")]  # noqa: PTH208
    reasons = []
    if len(tasks) > 1:
        names = sorted({(task / "comm").read_text().strip() for task in tasks if task.name != str(os.getpid())})
        threading = sys.modules["threading"]
        python = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        origin = f"Python's {', '.join(python)}" if python else f"native: {', '.join(names)}"
        reasons.append(f"its module{or_hook} starts {len(tasks) - 1} threads when it is {loaded} ({origin})")
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        reasons.append(f"its module{or_hook} initialises CUDA when it is {loaded}")
    return len(tasks), " and ".join(reasons)


def freeze_heap() -> None:
    """Keep the collector from touching, and so copying, what forked workers share."""
    gc.collect()
    gc.freeze()


def end_with_parent() -> None:
    """Have the kernel kill this process when its agent ends, even in the middle of an import that never returns.

    Forked workers do not inherit this: they live on.
    """
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() == 1:
        os._exit(0)  # it had ended before we asked


def kill_own_group() -> None:
    """Kill what this worker started and what stayed in its process group."""
    group, me = os.getpgrp(), os.getpid()
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and int(name) != me:
            try:
                if os.getpgid(int(name)) == group:
                    os.kill(int(name), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue


def run_exit_hooks() -> None:
    """Run what user code registered with `atexit`; its threads are not waited for."""
    atexit._run_exitfuncs()

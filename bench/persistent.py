"""A persistent server for a measurement, by the commands that users have."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench.processes import children, command

POLL_SECONDS = 0.02


def stoker(variables: Mapping[str, str], *arguments: str) -> Any:
    """Run a command of Stoker's and return its JSON."""
    line = [sys.executable, "-m", "stoker.cli", *arguments, "--json"]
    run = subprocess.run(line, check=False, capture_output=True, text=True, env=dict(variables))
    if run.returncode:
        raise RuntimeError(f"stoker {' '.join(arguments)} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
    return json.loads(run.stdout) if run.stdout.strip() else {}


@contextmanager
def server(variables: Mapping[str, str]) -> Iterator[int]:
    """Start a server, yield its pid, stop it by force: what is queued need not be run."""
    try:
        yield start(variables)
    finally:
        stoker(variables, "server", "stop", "--force")


def start(variables: Mapping[str, str]) -> int:
    return int(stoker(variables, "server", "start")["pid"])


def agent_of(server_pid: int) -> int:
    """Return the server's agent, which was forked off it and shows its command line."""
    return next(pid for pid in children(server_pid) if "stoker.server" in command(pid))


def wait_until(what: str, done: Callable[[], bool], *, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not done():
        if time.monotonic() > give_up:
            raise RuntimeError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_SECONDS)

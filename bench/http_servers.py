"""The same thing served by Stoker and by its peers, each a program of `bench.served` on a port of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.environments import ROOT, python_of

START_SECONDS = 180.0  # Ray, on a busy machine
END_SECONDS = 30.0
ENVIRONMENTS = {"stoker_torch": "torch", "stoker_fastapi": "fastapi"}  # of the others by the side's own name
NAMES = {
    "stoker": "Stoker",
    "uvicorn": "uvicorn with Starlette",
    "ray_serve": "Ray Serve",
    "bentoml": "BentoML",
    "litserve": "LitServe",
    "fastapi": "FastAPI under uvicorn",
}


@dataclass(frozen=True)
class Served:
    """A server that answers, where, and with what it is asked."""

    side: str
    port: int
    path: str
    body: Any
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def ask(self) -> bytes:
        """Ask once, and return the answer's body.

        Raises:
            OSError: nobody answers, or it is no success.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", self.path, json.dumps(self.body), {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from None
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"{self.url} answers {answer.status}: {text[:300]!r}")
        return text


@contextmanager
def serving(side: str, what: str, body: Any, variables: Mapping[str, str]) -> Iterator[Served]:
    """Start a server and wait until it answers; end it and all that it has started."""
    port = _free_port()
    log = Path(variables["BENCH_SCRATCH"]) / f"{side}-{what.replace('/', '-')}.log"
    command = [python_of(ENVIRONMENTS.get(side, side)), "-m", f"bench.served.on_{side}", what, str(port)]
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            cwd=ROOT,
            env=dict(variables),
            start_new_session=True,
        )
    path = f"/bench/{what}" if side.startswith("stoker") else f"/{what}"
    served = Served(side, port, path, body, process.pid)
    try:
        _wait(served, process, log)
        yield served
    finally:
        _end(process, log)


@contextmanager
def all_serving(
    sides: list[str], what: str, body: Any, variables: Mapping[str, str], bodies: Mapping[str, Any] | None = None
) -> Iterator[list[Served]]:
    """Start them all; ``bodies`` of those that are asked otherwise."""
    with ExitStack() as stack:
        yield [stack.enter_context(serving(side, what, (bodies or {}).get(side, body), variables)) for side in sides]


def _wait(served: Served, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while True:
        try:
            served.ask()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > give_up:
                said = log.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"{served.side} does not serve {served.path}: {error}\n{said}") from None
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"{process.args!r} did not end by itself:\n{log.read_text(errors='replace')[-2000:]}", file=sys.stderr)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])

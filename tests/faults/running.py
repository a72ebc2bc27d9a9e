"""The processes of one runtime directory by their roles, and what tests do to them."""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from tests import leftovers

START_SECONDS = 30.0
ALL_MET_AFTER = 12  # kills
WORKER_LOG = re.compile(r"w\d+-\d+\.log")  # Ray has worker logs of its own


def by_role(runtime: Path) -> dict[str, list[int]]:
    """Return the pids of servers, agents, zygotes and workers that were started with this runtime directory."""
    found: dict[str, list[int]] = {}
    for pid, command in leftovers.processes_of(runtime).items():
        if role := _role(pid, command):
            found.setdefault(role, []).append(pid)
    return found


def _role(pid: int, command: str) -> str:
    try:
        out = str(Path(f"/proc/{pid}/fd/1").readlink())
        leads = os.getsid(pid) == pid
    except OSError:
        return ""
    name = Path(out.removesuffix(" (deleted)")).name
    if name == "agent.log":
        return "agent"
    if not leads:
        return ""  # what a worker started
    if "/logs/zygote-" in out:
        return "zygote"
    if WORKER_LOG.fullmatch(name):
        return "worker"
    return "server" if "-m stoker.server" in command else ""


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Signal a process; False when it is gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Chaos:
    """Kills processes at random moments until it is told to stop. ``weights``: how often each role is drawn.

    None is left out by bad luck: after so many kills the roles come next that none was of yet.

    ``limits``: how many of a role are killed at most. A program gives its own server up that ends more than five times
    within a minute, and says so: such tests bound it.
    """

    def __init__(
        self,
        runtime: Path,
        *,
        weights: dict[str, float],
        pause: tuple[float, float],
        limits: dict[str, int] | None = None,
    ) -> None:
        self.seed = int(os.environ.get("STOKER_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
        print(f"seed of the chaos: {self.seed} (set STOKER_CHAOS_SEED to have it again)")
        self.killed: Counter[str] = Counter()
        self._random = random.Random(self.seed)
        self._runtime = runtime
        self._weights = weights
        self._pause = pause
        self._limits = limits or {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)

    def __enter__(self) -> Chaos:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def total(self) -> int:
        return sum(self.killed.values())

    def _run(self) -> None:
        while not self._stop.wait(self._random.uniform(*self._pause)):
            self._strike()

    def _strike(self) -> None:
        """Kill one of a role that is drawn; nobody where there is none, so that each is killed by its share only."""
        roles = [role for role in sorted(self._weights) if self.killed[role] < self._limits.get(role, 1 << 30)]
        unmet = [role for role in roles if not self.killed[role]] if self.total >= ALL_MET_AFTER else []
        (role,) = self._random.choices(unmet or roles, [self._weights[role] for role in unmet or roles])
        if living := by_role(self._runtime).get(role):
            self.killed[role] += kill(self._random.choice(sorted(living)))


class PersistentServer:
    """A persistent server of this test's own, in its environment's home and runtime directory."""

    def __init__(self, *options: str, module: str = "stoker.server", env: dict[str, str] | None = None) -> None:
        """``env`` is added to what the environment is when it is started."""
        self._options = options
        self._module = module
        self._env = env or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = Path({**os.environ, **self._env}["STOKER_HOME"]) / "server-under-test.log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> dict[str, object]:
        """Start it; the answer that it gives when it listens, or its error."""
        ready, ready_out = os.pipe()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        self._module,
                        "--persistent",
                        "--ready-fd",
                        str(ready_out),
                        *self._options,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(ready_out,),
                    start_new_session=True,
                    env={**os.environ, **self._env},
                )
        finally:
            os.close(ready_out)
        with os.fdopen(ready, "rb", buffering=0) as pipe:
            return self._answer(pipe.fileno())

    def _answer(self, fd: int) -> dict[str, object]:
        line = b""
        give_up = time.monotonic() + START_SECONDS
        while not line.endswith(b"\n"):
            assert select.select([fd], [], [], max(0.0, give_up - time.monotonic()))[0], self.log.read_text()
            chunk = os.read(fd, 65536)
            assert chunk, self.log.read_text()
            line += chunk
        found: dict[str, object] = json.loads(line)
        return found

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait(self, *, unless: threading.Event) -> None:
        """Return when it has ended, or was told to stop waiting."""
        assert self.process is not None
        while self.process.poll() is None and not unless.wait(0.02):
            pass

    def stop(self) -> int:
        """Tell it to end, and return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


class Supervised:
    """A persistent server that is started again whenever it is killed, as systemd would.

    ``server``: one that runs already, and is left running.
    """

    def __init__(self, server: PersistentServer | None = None) -> None:
        self._is_lent = server is not None
        self.server = server or PersistentServer()
        self.starts = 0
        self.errors: list[dict[str, object]] = []
        self._stop = threading.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def __enter__(self) -> Supervised:
        self._thread.start()
        assert self._up.wait(START_SECONDS)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        if not self._is_lent:
            self.server.stop()
        elif not self.server.lives:
            self.server.start()

    def _run(self) -> None:
        if self.server.lives:
            self._up.set()
            self.server.wait(unless=self._stop)
        while not self._stop.is_set():
            self.starts += 1
            try:
                answer = self.server.start()
            except AssertionError:
                answer = {}  # killed before it listened
            if "error" in answer:
                self.errors.append(answer)
            elif answer:
                self._up.set()
            self.server.wait(unless=self._stop)


class Program:
    """A script of a user's, run in a process of its own."""

    def __init__(self, script: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._out = Path(os.environ["STOKER_TEST_ROOT"]) / f"{script.stem}.{time.monotonic_ns()}.out"
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(script), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            )

    @property
    def output(self) -> str:
        return self._out.read_text(errors="replace")

    def wait(self, timeout: float) -> int:
        """Return its exit status; killed, with its output shown, when it takes longer."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the program did not end within {timeout} s:\n{self.output}") from None

"""Machines for a test, and what it does to them: run a command there, cut a cable, switch one off."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.machines.keeper import SWITCH
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
HOME = Path("/home/ada")  # of whoever works there
PROGRAMS = Path("/tmp/bin")
NETWORK = "10.77.0"
GATEWAY = f"{NETWORK}.254"
CLONE_NEWNET = 0x40000000


@dataclass
class Machine:
    """One machine. ``pid``: its first process, as this one sees it; ``keeper_pid``: as other machines do."""

    name: str
    address: str
    pid: int
    keeper_pid: int
    switch: int
    env: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *words: str | Path) -> list[str]:
        """Return the command that runs another one there, in the home directory."""
        return ["nsenter", "-t", str(self.pid), *_SPACES, "env", "-C", str(HOME), *map(str, words)]

    def environment(self, env: dict[str, str] | None = None) -> dict[str, str]:
        system = ":".join(["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"])
        path = f"{PROGRAMS}:{system}"
        return {"HOME": str(HOME), "PATH": path, "LANG": "C.UTF-8", "COLUMNS": "100", **self.env, **(env or {})}

    def run(
        self, *words: str | Path, status: int | None = 0, timeout: float = 60.0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end."""
        done = subprocess.run(
            self.command(*words),
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        said = f"{self.name}$ {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
        assert status is None or done.returncode == status, f"exit status {done.returncode} of {said}"
        return done

    def start(
        self, *words: str | Path, output: Path, env: dict[str, str] | None = None, fds: Sequence[int] = ()
    ) -> None:
        """Start a command there; it ends with the machine at the latest."""
        with output.open("ab") as sink:
            process = subprocess.Popen(
                self.command(*words),
                env=self.environment(env),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=fds,
                start_new_session=True,
            )
        self.started.append(process)

    def write(self, path: Path, text: str, *, mode: int = 0o644) -> None:
        """Write a file there."""
        there = Path(f"/proc/{self.pid}/root") / path.relative_to("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text)
        there.chmod(mode)

    def read(self, path: Path) -> str:
        """Return a file there."""
        return (Path(f"/proc/{self.pid}/root") / path.relative_to("/")).read_text()

    def sees(self, path: Path) -> bool:
        """Tell whether a file is there."""
        return (Path(f"/proc/{self.pid}/root") / path.relative_to("/")).exists()

    def cut(self) -> None:
        """Cut its cable: what is on its way is lost, and neither side is told."""
        self._ip("nomaster")

    def mend(self) -> None:
        self._ip("master", SWITCH)

    def switch_off(self) -> None:
        """End everything there at once, and without a word to anybody: the kernel would close its connections."""
        self.cut()
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(self.pid) or _is_zombie(self.pid), message=f"{self.name} is off")

    @contextmanager
    def network(self) -> Iterator[None]:
        """Have this thread on its network: sockets that it makes, and threads that it starts, are there."""
        with open("/proc/thread-self/ns/net") as before, open(f"/proc/{self.pid}/ns/net") as there:  # noqa: PTH123
            _set_namespace(there.fileno())
            try:
                yield
            finally:
                _set_namespace(before.fileno())

    def _ip(self, *words: str) -> None:
        line = ["nsenter", "-t", str(self.switch), "--net", "ip", "link", "set", self.name, *words]
        subprocess.run(line, check=True, capture_output=True, timeout=10)


_SPACES = ("--net", "--mount", "--uts", "--ipc", "--pid")


class Machines:
    """Some machines on a network of their own. See the package.

    ``shared``: directories that all of them see, beside the repository and the Python of the tests. ``own_pids=False``:
    the processes of all are one space, in which one can start something on another.
    """

    def __init__(self, *names: str, shared: Sequence[Path] = (), own_pids: bool = True) -> None:
        addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, start=1)}
        hosts = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())
        keep = [str(path) for path in _kept(shared)]
        spec = {
            "gateway": GATEWAY,
            "own_pids": own_pids,
            "machines": [
                {"name": name, "address": address, "hosts": hosts, "keep": keep, "home": str(HOME)}
                for name, address in addresses.items()
            ],
        }
        apart = ["--pid", "--fork", "--kill-child", "--net", "--mount-proc"]
        keeper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py")), json.dumps(spec)]
        self._process = subprocess.Popen(
            ["unshare", *apart, *keeper], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        self.machines: list[Machine] = []
        answer = self._process.stdout.readline()
        if not answer:
            self.stop()
            raise RuntimeError("the machines of the tests could not be made; what went wrong is above")
        pids = _pids_below(self._process.pid)
        (keeper_pid,) = (pid for pid, inner in pids.items() if inner == [1])
        self.machines = [
            Machine(name, addresses[name], _first(pids, pid, own_pids=own_pids), pid, keeper_pid)
            for name, pid in zip(names, json.loads(answer), strict=True)
        ]
        for machine in self.machines:
            for program in ("stoker", "ray", "python"):
                text = f'#!/bin/sh\nexec {Path(sys.prefix) / "bin" / program} "$@"\n'
                machine.write(PROGRAMS / program, text, mode=0o755)

    def __getitem__(self, name: str) -> Machine:
        return next(machine for machine in self.machines if machine.name == name)

    def stop(self) -> None:
        """End all machines, and with them their processes, networks and files."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)
        for process in [process for machine in self.machines for process in machine.started]:
            process.wait(30)


@contextmanager
def machines(*names: str, shared: Sequence[Path] = (), own_pids: bool = True) -> Iterator[Machines]:
    """Have machines for a block; skip the test where they cannot be made, but fail it in CI."""
    if missing := _missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"machines of a test's own need {missing}")
    made = Machines(*names, shared=shared, own_pids=own_pids)
    try:
        yield made
    finally:
        made.stop()


def _missing() -> str:
    if os.geteuid() != 0:
        return "root"
    absent = [program for program in ("ip", "nsenter", "unshare") if shutil.which(program) is None]
    if absent:
        return f"the programs {', '.join(absent)} (packages iproute2 and util-linux)"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    return f"the right to make namespaces ({tried.stderr.strip()})" if tried.returncode else ""


def _kept(shared: Sequence[Path]) -> list[Path]:
    """Return what a machine needs of this one: this repository, the Python of the tests, and what they share."""
    return [path.resolve() for path in (ROOT, Path(sys.prefix), Path(sys.base_prefix), *shared)]


def _pids_below(pid: int) -> dict[int, list[int]]:
    """Return the processes below one; with each its ids in the PID namespaces that are deeper than ours."""
    found = {}
    for child in psutil.Process(pid).children(recursive=True):
        status = Path(f"/proc/{child.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
        found[child.pid] = [int(word) for word in line.split()[1:]][1:]
    return found


def _first(pids: dict[int, list[int]], keeper_pid: int, *, own_pids: bool) -> int:
    """Return the first process of the machine whose starter has this id at the keeper."""
    (starter,) = (pid for pid, inner in pids.items() if inner == [keeper_pid])
    if not own_pids:
        return starter
    return int(psutil.Process(starter).children()[0].pid)


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _set_namespace(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")

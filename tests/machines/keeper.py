"""Keeps the machines of a test: a switch between them, and the first process of each.

``python keeper.py SPEC`` is process 1 of a PID namespace, in a network of its own where the switch is. It ends with its
standard input, that is with the tests, whatever becomes of them; then the kernel ends every process on every machine,
and networks and mounts go with the last process that has them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

SWITCH = "switch"


def main(spec: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _ip("link", "set", "lo", "up")
    _ip("link", "add", SWITCH, "type", "bridge")
    _ip("addr", "add", f"{spec['gateway']}/24", "dev", SWITCH)
    _ip("link", "set", SWITCH, "up")
    # What is sent elsewhere is refused, not lost: nobody waits for an answer from the internet.
    _ip("route", "add", "unreachable", "default")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    machines = [_start(machine, own_pids=spec["own_pids"]) for machine in spec["machines"]]
    for machine, process in zip(spec["machines"], machines, strict=True):
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            sys.exit(f"the machine {machine['name']} could not be made")
        _connect(machine, process.pid, gateway=spec["gateway"])
    print(json.dumps([process.pid for process in machines]), flush=True)
    signal.signal(signal.SIGCHLD, lambda number, frame: _reap({process.pid for process in machines}))
    while os.read(0, 1024):
        pass


def _start(machine: dict[str, Any], *, own_pids: bool) -> subprocess.Popen[bytes]:
    apart = ["--net", "--mount", "--uts", "--ipc", *(["--pid", "--fork", "--kill-child", "--mount-proc"] * own_pids)]
    program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("first_process.py")), json.dumps(machine)]
    return subprocess.Popen(["unshare", *apart, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _connect(machine: dict[str, Any], pid: int, *, gateway: str) -> None:
    """Lay a cable from a machine to the switch; its end at the switch has the machine's name."""
    name = machine["name"]
    _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    _ip("link", "set", name, "master", SWITCH, "up")
    inside = ["nsenter", "-t", str(pid), "--net", "ip"]
    for words in (
        ("link", "set", "lo", "up"),
        ("addr", "add", f"{machine['address']}/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("route", "add", "default", "via", gateway),
    ):
        subprocess.run([*inside, *words], check=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _reap(machines: set[int]) -> None:
    """Reap what machines without processes of their own leave to us; the machines are the last to go."""
    while True:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None or found.si_pid in machines:
            return
        os.waitpid(found.si_pid, 0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

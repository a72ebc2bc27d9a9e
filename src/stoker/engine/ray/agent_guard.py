"""The guard of an agent on a cluster's node: it waits for the agent's end, says how that was, and leaves nothing.

``python -m stoker.engine.ray.agent_guard RESULT_FD SECONDS OWNER NODE ARGUMENT…`` leaves a process of its own session
behind and returns at once. The agent's standard input is the caller's pipe, so it ends when the caller does; what it
has not ended some seconds later is killed. What the agent leaves behind becomes the guard's child, and is killed too.
"""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from stoker import paths
from stoker.engine.local import processes
from stoker.engine.local.config import segments_of
from stoker.engine.ray.cluster import LAST_LINES
from stoker.errors import StokerError

STDIN = 0
PROGRAM_VARIABLE = "STOKER_AGENT_PROGRAM"  # a program to run in place of the agent; tests do
NODE_CHARACTERS = 12  # of a node's id in a directory's name: a Unix socket's path has at most 107 bytes
SOCKET_PATH_BYTES = 107
SOCKET_NAME_BYTES = 20  # the longest that an agent makes in its run directory, with room
LINES = 10  # of the agent's last output that are told
LINE_CHARACTERS = 300


def run_dir_of(owner: str, node: str) -> Path:
    """Return where the agent's sockets are.

    Raises:
        StokerError: the runtime directory of this node is too deep for a socket.
    """
    found = paths.private_dir(paths.runtime() / "nodes" / f"{owner}-{node[:NODE_CHARACTERS]}")
    if len(os.fsencode(found)) > SOCKET_PATH_BYTES - SOCKET_NAME_BYTES:
        raise StokerError(
            f"{found} is too long for the path of a socket: set STOKER_RUNTIME_DIR to a shorter one there."
        )
    return found


def state_dir_of(owner: str, node: str) -> Path:
    """Return where the agent keeps what outlives it: its logs."""
    return paths.private_dir(paths.home() / "nodes" / f"{owner}-{node[:NODE_CHARACTERS]}")


def main(arguments: list[str]) -> None:
    result, seconds, owner, node = int(arguments[0]), float(arguments[1]), arguments[2], arguments[3]
    if os.fork():
        os._exit(0)
    os.setsid()
    processes.become_subreaper()
    try:
        reason = _guard(seconds, owner, node, arguments[4:])
    except (OSError, StokerError) as error:
        reason = f"it could not be started: {error}"
    try:
        os.write(result, json.dumps({"reason": reason}).encode())
    except BrokenPipeError:
        pass  # nobody is there to be told


def _guard(seconds: float, owner: str, node: str, arguments: list[str]) -> str:
    run_dir, state_dir = run_dir_of(owner, node), state_dir_of(owner, node)
    output = state_dir / "agent.log"  # where the agent itself goes on writing
    program = os.environ.pop(PROGRAM_VARIABLE, "")
    command = [sys.executable, *([program] if program else ["-m", "stoker.engine.local.agent"]), *arguments]
    command += ["--run-dir", str(run_dir), "--state-dir", str(state_dir), "--until-stdin-closes"]
    with output.open("ab") as sink:
        before = sink.tell()
        agent = subprocess.Popen(command, stdout=sink, stderr=sink, cwd="/")
    _await_end(agent, seconds)
    processes.kill_all(lambda: processes.descendants([os.getpid()]))
    shutil.rmtree(segments_of(run_dir, state_dir), ignore_errors=True)  # nobody is left to use them
    said = _last_lines(output, before)
    return f"it ended: {_how(agent.returncode)}" + (f"{LAST_LINES}{said}" if said else "")


def _await_end(agent: subprocess.Popen[bytes], seconds: float) -> None:
    """Return when the agent has ended; one that has not some time after its pipe was closed is killed."""
    ended = os.pidfd_open(agent.pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(STDIN, 0)  # POLLHUP comes when the other end is closed
    give_up = math.inf
    while agent.poll() is None:
        left = give_up - time.monotonic()
        if left <= 0:
            agent.kill()
            agent.wait()
        for fd, _ in poll.poll(None if left == math.inf else max(left, 0.0) * 1000):
            if fd == STDIN:
                poll.unregister(STDIN)
                give_up = time.monotonic() + seconds
    os.close(ended)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    words = (signal.strsignal(-code) or "unknown").lower()
    return f"killed by signal {-code}" + ("" if words == "killed" else f" ({words})")


def _last_lines(output: Path, start: int) -> str:
    with output.open("rb") as file:
        file.seek(max(start, output.stat().st_size - LINES * LINE_CHARACTERS))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(line[:LINE_CHARACTERS] for line in lines[-LINES:])


if __name__ == "__main__":
    main(sys.argv[1:])

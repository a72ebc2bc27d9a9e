"""The actors that run on the cluster's nodes. They travel by value, so that a node without Stoker can say so.

Nothing of Stoker is imported here, and Ray only inside: what a node has to import is its own Ray.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CHECK_SECONDS = 30.0  # for a Python to import Stoker on a busy machine
PARENT_SECONDS = 0.5  # how soon the end of the raylet is noticed
LINGER_SECONDS = 15.0  # for a server to hear how the agent ended; then nobody is there who would clear up
END_SECONDS = 20.0  # for an agent to end its workers when it is told to; then the guard kills them


class DeviceActor:
    """Holds the GPUs of one bundle and says which they are."""

    def devices(self) -> list[str]:
        import ray

        return [str(device) for device in ray.get_runtime_context().get_accelerator_ids().get("GPU", [])]


class NodeActor:
    """Runs a server's agent on its node, below a guard that ends it with this process.

    The guard is no child of this process in the kernel's eyes: Ray kills the children of an actor that ends, and the
    agent would have no time to end what it has started.
    """

    def __init__(self, owner: str, node: str) -> None:
        self._owner = owner
        self._node = node
        self._stdin = -1
        self._result = -1
        self._is_stopped = False
        self._told: tuple[list[str], dict[str, str]] = ([], {})
        self._raylet = os.getppid()
        self._ending: asyncio.Future[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, spec: dict[str, Any]) -> dict[str, str]:
        """Start the agent, unless it runs; returns ``{"problem": …}`` where none can, ``{"ended": …}`` where it has."""
        if self._ending is not None:
            if not self._ending.done() and (spec["arguments"], spec["environment"]) != self._told:
                await self.stop()  # its server is not where it looks, or takes it for a stranger, and would for minutes
            return {"ended": self._ending.result()} if self._ending.done() else {}
        environment = _environment(self._raylet, spec["environment"])
        if problem := await asyncio.to_thread(self._check, spec["version"], environment):
            return {"problem": problem}
        if self._is_stopped:
            return {"ended": "it was stopped before it had started"}
        if self._ending is None:  # two servers' orders may cross
            self._ending = asyncio.get_running_loop().create_future()
            self._told = (spec["arguments"], spec["environment"])
            self._launch(spec["arguments"], environment)
            self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._watch_raylet())]
        return {}

    async def ended(self) -> str:
        """Return how the agent ended, when it has."""
        while self._ending is None:
            await asyncio.sleep(PARENT_SECONDS)
        return await asyncio.shield(self._ending)

    async def stop(self) -> None:
        """End the agent with everything below it; returns when it is gone."""
        self._is_stopped = True
        self._close_stdin()
        if self._ending is not None:
            await asyncio.wait([self._ending], timeout=END_SECONDS + 10.0)

    def _check(self, version: str, environment: dict[str, str]) -> str:
        """Say what is wrong with the Stoker of this node's Python, if anything is."""
        asked = [sys.executable, "-c", "from stoker._version import __version__; print(__version__)"]
        try:
            found = subprocess.run(
                asked, env=environment, capture_output=True, text=True, timeout=CHECK_SECONDS, cwd="/", check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{sys.executable} on node {self._node} cannot be asked for its Stoker: {error}"
        remedy = f"There: {sys.executable} -m pip install 'stoker[ray]=={version}'"
        if found.returncode:
            return f"Stoker is not installed in Ray's Python, {sys.executable}, on node {self._node}. {remedy}"
        theirs = found.stdout.strip()
        if theirs != version:
            return f"Node {self._node} has Stoker {theirs} in {sys.executable}; the server has {version}. {remedy}"
        return ""

    def _launch(self, arguments: list[str], environment: dict[str, str]) -> None:
        stdin, self._stdin = os.pipe()
        self._result, result = os.pipe()
        command = [sys.executable, "-m", "stoker.engine.ray.agent_guard", str(result), str(END_SECONDS)]
        command += [self._owner, self._node, *arguments]
        process = subprocess.Popen(command, env=environment, stdin=stdin, pass_fds=[result], cwd="/")
        os.close(stdin)
        os.close(result)
        process.wait()  # it leaves the guard behind, at once

    async def _watch(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(self._result, "rb", 0)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        said = await reader.read()
        self._close_stdin()
        assert self._ending is not None
        self._ending.set_result(json.loads(said)["reason"] if said else "its guard was killed")
        await asyncio.sleep(LINGER_SECONDS)
        await asyncio.to_thread(self._clear_up)
        os._exit(0)

    async def _watch_raylet(self) -> None:
        """End with the raylet: Ray looks for its process, which as a zombie is there for as long as nobody reaps it."""
        while os.getppid() == self._raylet:
            await asyncio.sleep(PARENT_SECONDS)
        self._close_stdin()
        os._exit(1)

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def _clear_up(self) -> None:
        """Remove this server's groups here and where none of its agents is: it has not come back."""
        import ray
        from ray.util.placement_group import get_placement_group, placement_group_table, remove_placement_group

        prefix = f"stoker-{self._owner}-"
        actors = {
            name.rpartition("-")[2] for name in ray.util.list_named_actors() if name.startswith(f"{prefix}agent-")
        }
        others = actors - {self._node}
        for entry in placement_group_table().values():
            nodes = set(entry["bundles_to_node_id"].values())
            if entry["name"].startswith(prefix) and (self._node in nodes or not nodes & others):
                try:
                    remove_placement_group(get_placement_group(entry["name"]))
                except ValueError:
                    pass  # it was removed before


def _environment(raylet: int, added: dict[str, str]) -> dict[str, str]:
    """Return the node's own environment, as its raylet was started with, without what is Ray's, and with ``added``."""
    try:
        items = [item.partition(b"=") for item in Path(f"/proc/{raylet}/environ").read_bytes().split(b"\0") if item]
        found = {os.fsdecode(name): os.fsdecode(value) for name, _, value in items}
    except OSError:
        found = dict(os.environ)
    kept = {name: value for name, value in found.items() if not name.startswith("RAY_")}
    return {**kept, **added}

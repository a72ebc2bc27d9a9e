"""A user's script: starts a Ray cluster of two nodes and works there; then ends as it is told to.

``end``: by itself. ``lost``: waits for a task while the rank of the cluster's head is killed. ``hold``: until somebody
ends it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray
from tests.clusters import work

import stoker

STRANGER = """
import os, ray
os.environ["RAY_AUTH_TOKEN"] = "0" * 64
os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "2"
from ray._raylet import GcsClient
try:
    GcsClient(address=os.environ["HEAD"]).get_all_node_info(timeout=2)
except ray.exceptions.AuthenticationError as error:
    print("a stranger is told:", error)
"""


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def where(x: int) -> tuple[int, int, str]:
    time.sleep(0.5)
    return work.square(x), os.getppid(), os.environ.get("COLOUR", "")


@ray.remote
def nap() -> None:
    time.sleep(600)


def rank_of(raylet: int) -> int:
    """Return the process that has started what has started a raylet."""
    for _ in range(2):
        raylet = int(Path(f"/proc/{raylet}/stat").read_text().rpartition(")")[2].split()[1])
    return raylet


def main(how: str) -> None:
    with stoker.clusters.ray(workers=2, cpu=0.5, memory="512MiB", env={"COLOUR": "green"}) as cluster:
        found = ray.get([where.remote(x) for x in range(4)])
        print("values", [value for value, _, _ in found], {colour for _, _, colour in found})
        resources: Any = ray.cluster_resources  # it says nothing of its types
        print("nodes", len({raylet for _, raylet, _ in found}), resources()["CPU"], cluster)
        if how == "end":
            told = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", STRANGER],
                env={**os.environ, "HEAD": cluster.address},
                capture_output=True,
                text=True,
                check=False,
            )
            print(told.stdout, told.stderr[-500:])
            return
        if how == "lost":
            head = ray.get_runtime_context().get_node_id()
            os.kill(rank_of(ray_head(found)), 9)
            print("killed the rank of the head; this driver's node is", head)
        naps = nap.remote()
        print("ready", flush=True)
        ray.get(naps)


def ray_head(found: list[tuple[int, int, str]]) -> int:
    """Return the raylet of the cluster's head among those that have run a task."""
    for _, raylet, _ in found:
        parent = int(Path(f"/proc/{raylet}/stat").read_text().rpartition(")")[2].split()[1])
        if b"--head" in Path(f"/proc/{parent}/cmdline").read_bytes():
            return raylet
    raise AssertionError("the head has run no task")


if __name__ == "__main__":
    main(sys.argv[1])
    print("connected to no Ray any more:", not ray.is_initialized(), os.environ.get("RAY_AUTH_TOKEN"))

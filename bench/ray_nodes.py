"""Two Ray nodes on this machine and a Stoker server on them: the stage of the rows that speak of a cluster.

Both sides work on the same cluster, in turns; Ray is the one beside Stoker, of the server's own version.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests import ray_clusters

from bench import persistent
from bench.environments import scratch

NODES_SECONDS = 60.0


@contextmanager
def two_nodes(*, cpus: tuple[float, float], object_store: int = 256 << 20) -> Iterator[dict[str, str]]:
    """Yield the environment variables with which Stoker's side finds the server, and Ray's the cluster."""
    with scratch() as variables:
        nodes = {name: variables[name] for name in ("PYTHONPATH",)}
        nodes |= {
            "STOKER_HOME": f"{variables['STOKER_HOME']}-n",
            "STOKER_RUNTIME_DIR": f"{variables['BENCH_SCRATCH']}/n",
        }
        with ray_clusters.two_nodes(cpus=cpus, gpus=0, env=nodes, object_store=object_store) as cluster:
            told = {
                **variables,
                "RAY_ADDRESS": cluster.address,
                "STOKER_ENGINE": "ray",
                "STOKER_RAY_ADDRESS": cluster.address,
                "STOKER_LISTEN": f"0.0.0.0:{_free_port()}",  # beyond loopback, so with TLS, as on several machines
            }
            with persistent.server(told):
                persistent.wait_until("two nodes", lambda: _joined(told) == 2, seconds=NODES_SECONDS)
                yield told


def _joined(variables: Mapping[str, str]) -> int:
    return len(persistent.stoker(variables, "server", "status")["nodes"])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])

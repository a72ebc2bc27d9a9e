"""A worker's place in a gang, as the libraries of distributed training expect to find it: in its environment."""

from __future__ import annotations

import json
import os
import socket

from stoker.types import GangSeat


class Seats:
    """Finds ports, and sets and restores the environment; one attempt has a seat at a time."""

    def __init__(self) -> None:
        self._kept: socket.socket | None = None
        self._before: dict[str, str | None] = {}

    def gather(self) -> int:
        """Return a port that is free, and keep it so until the attempt begins, or another one is looked for."""
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("", 0))
        before, self._kept = self._kept, found
        if before is not None:
            before.close()
        port: int = found.getsockname()[1]
        return port

    def enter(self, seat: GangSeat) -> None:
        """Set the environment, and leave the port to user code."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()
        variables = environment(seat)
        self._before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)

    def leave(self) -> None:
        """Restore the environment."""
        before, self._before = self._before, {}
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def environment(seat: GangSeat) -> dict[str, str]:
    """Return what torch.distributed, TensorFlow and MPI-style launchers set for a rank."""
    rank, size = seat.rank, len(seat.addresses)
    host, _, port = seat.addresses[0].rpartition(":")
    here = [other for other, node in enumerate(seat.nodes) if node == seat.nodes[rank]]
    local_rank, node_rank = here.index(rank), list(dict.fromkeys(seat.nodes)).index(seat.nodes[rank])
    numbers = {
        "MASTER_PORT": port,
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": len(here),
        "NODE_RANK": node_rank,
        "GROUP_RANK": node_rank,
        "OMPI_COMM_WORLD_RANK": rank,
        "OMPI_COMM_WORLD_SIZE": size,
        "OMPI_COMM_WORLD_LOCAL_RANK": local_rank,
        "OMPI_COMM_WORLD_LOCAL_SIZE": len(here),
        "PMI_RANK": rank,
        "PMI_SIZE": size,
    }
    cluster = {"cluster": {"worker": seat.addresses}, "task": {"type": "worker", "index": rank}}
    return {
        "MASTER_ADDR": host,
        "TF_CONFIG": json.dumps(cluster),
        **{name: str(number) for name, number in numbers.items()},
    }

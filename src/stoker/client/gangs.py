"""Gangs: functions whose every call runs in several workers at once, which know each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from stoker.client.names import fields_checked
from stoker.errors import InvalidOption, InvalidRequest
from stoker.transport.current import current_call
from stoker.types import GangSeat, GangSpec

RANKS_MAX = 10_000


@fields_checked
@dataclass(frozen=True)
class Gang:
    """How many workers run each call together: a number, or for an elastic gang the least and the most.

    All ranks start or none, and the first failure ends all. ``Gang(size=(2, 8))`` starts with as many ranks as there is
    room for; when one is lost the function is called again in those that are left, while they are at least the least.
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        self.to_spec()

    def to_spec(self) -> GangSpec:
        """Return the checked form that travels."""
        given = self.size if isinstance(self.size, (tuple, list)) else (self.size, self.size)
        whole = all(isinstance(one, int) and not isinstance(one, bool) for one in given)
        if len(given) != 2 or not whole or not 1 <= given[0] <= given[1] <= RANKS_MAX:
            raise InvalidOption(
                f"Gang(size={self.size!r}): write a number of ranks from 1 to {RANKS_MAX}, or for an elastic gang the "
                "least and the most, as in Gang(size=(2, 8))."
            )
        return GangSpec(given[0], given[1])


@dataclass(frozen=True)
class GangInfo:
    """Which rank this is, of how many, and where the others are.

    Attributes:
        rank: from 0; rank 0's return value is the call's.
        size: how many ranks there are.
        addresses: ``host:port`` by rank; the port is free at its rank for that rank's own use.
        master_address: rank 0's host.
        master_port: rank 0's port.
        local_rank: from 0, among the ranks of this node.
        local_size: how many ranks this node has.
        node_rank: from 0, among the gang's nodes.
        attempt: which attempt of the call this is, from 1: an elastic gang that has lost a rank begins another.
    """

    rank: int
    size: int
    addresses: tuple[str, ...]
    master_address: str
    master_port: int
    local_rank: int
    local_size: int
    node_rank: int
    attempt: int = field(default=1)


def gang_info() -> GangInfo:
    """Return this worker's place in its gang.

    Raises:
        InvalidRequest: this code does not run as a rank of a gang.
    """
    call = current_call()
    if call is None or call.seat is None:
        raise InvalidRequest(
            "gang_info() was called outside of a gang. It is for functions with gang=stoker.Gang(…), while they run "
            "remotely."
        )
    return _info(call.seat, call.number)


def _info(seat: GangSeat, attempt: int) -> GangInfo:
    host, _, port = seat.addresses[0].rpartition(":")
    mine = seat.nodes[seat.rank]
    here = [rank for rank, node in enumerate(seat.nodes) if node == mine]
    return GangInfo(
        rank=seat.rank,
        size=len(seat.addresses),
        addresses=tuple(seat.addresses),
        master_address=host,
        master_port=int(port),
        local_rank=here.index(seat.rank),
        local_size=len(here),
        node_rank=list(dict.fromkeys(seat.nodes)).index(mine),
        attempt=attempt,
    )

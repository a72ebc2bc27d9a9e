"""The latest settled calls, kept for people: `stoker calls` shows attached ones too, which leave no row."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from stoker.core.calls import Call, Delivery
from stoker.core.pools import Worker
from stoker.core.trials import is_mirrored
from stoker.protocol.messages import ChannelUsed
from stoker.types import CallState, ErrorInfo, Outcome

KEPT_CALLS = 2000
OF_A_BATCH = 50  # of a batch of no-ops the last ones are kept: this is on the hot path


class Record(NamedTuple):
    call: Call
    finished: float
    seconds: float
    error: ErrorInfo | None


class Records:
    """See the module."""

    def __init__(self) -> None:
        self._kept: deque[Record] = deque(maxlen=KEPT_CALLS)

    def add(self, deliveries: Sequence[Delivery], *, now: float) -> None:
        for delivery in deliveries[-OF_A_BATCH:]:
            if delivery.call is not None:
                result = delivery.result
                self._kept.append(Record(delivery.call, now, result.seconds, result.error))

    def add_direct(self, used: ChannelUsed, *, worker: Worker, client: str, wall: float) -> None:
        """Keep calls that a client made on a channel."""
        for i in range(max(0, len(used.ids) - OF_A_BATCH), len(used.ids)):
            finished = used.finished[i] - wall
            call = Call(used.ids[i], worker.pool, client, b"", finished - used.seconds[i])
            call.method = used.methods[i] if used.methods else ""
            value = used.outcomes[i] == Outcome.VALUE
            call.state = CallState.SUCCEEDED if value else CallState.FAILED
            call.attempt, call.worker, call.leased_at = 1, worker, call.created
            self._kept.append(Record(call, finished, used.seconds[i], used.errors.get(str(i))))

    def get(self, call_id: str) -> Record | None:
        return next((record for record in reversed(self._kept) if record.call.id == call_id), None)

    def newest(self) -> list[Record]:
        return list(reversed(self._kept))


def state_name(state: CallState) -> str:
    """Return a state in the words that users read."""
    return "running" if state is CallState.LEASED else state.value


def _seconds(call: Call, record: Record | None) -> float | None:
    """Return how long the last attempt of a settled call ran: by its worker, else as seen here; None if it did not."""
    if record is None:
        return None
    return record.seconds or (max(0.0, record.finished - call.leased_at) if call.leased_at else None)


def row_of(call: Call, *, wall: float, record: Record | None = None) -> dict[str, Any]:
    """Return what `stoker calls` shows of one call."""
    began = call.leased_at or None
    return {
        "id": call.id,
        "app": call.pool.spec.app,
        "function": call.label,
        "state": state_name(call.state),
        "created": call.created + wall,
        "started": None if began is None else began + wall,
        "seconds": _seconds(call, record),
        "attempts": call.attempt,
        "worker": call.worker.id if call.worker else "",
        "error": record.error.said if record and record.error else "",
        "detached": call.detached,
        "trace": call.trace,
        "version": call.pool.spec.version,
        "shadow": is_mirrored(call),
        "http": None,
    }

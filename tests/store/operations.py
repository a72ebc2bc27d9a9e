"""Random operations on a store, and all that one holds: what the stores are compared by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from stoker.errors import Fenced, StoreError
from stoker.store.base import ProgressRow, Rollout, Store, Write
from stoker.types import CallState
from tests.store.rows import accepted, settled, spec

CALLS = list(range(1, 9))
WHEN = st.floats(min_value=2000.0, max_value=2020.0)
ROW: st.SearchStrategy[Write] = st.one_of(
    st.builds(
        lambda seq, other, blob, tags: accepted(seq, id=f"c-0k3v9.{other or seq:06d}", payload_blob=blob, tags=tags),
        st.sampled_from(CALLS),
        st.sampled_from([0, 0, 0, 1, 2]),
        st.sampled_from(["", "blob"]),
        st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    ),
    st.builds(
        lambda seq, state, finished, payload: settled(seq, state=state, finished=finished, payload=payload),
        st.sampled_from(CALLS),
        st.sampled_from([state for state in CallState if state.settled]),
        WHEN,
        st.binary(max_size=4),
    ),
    st.builds(ProgressRow, st.sampled_from(CALLS), st.integers(0, 3), st.integers(0, 3), WHEN),
)


@dataclass(frozen=True)
class Operation:
    """One verb: what it does to a store, whose outcome is compared."""

    verb: str
    run: Callable[[Store, int], object]

    def outcome(self, store: Store, epoch: int) -> object:
        try:
            return self.run(store, epoch)
        except (Fenced, StoreError) as error:
            return type(error)


OPERATION = st.one_of(
    st.lists(ROW, max_size=6).map(
        lambda rows: Operation(f"write {rows}", lambda store, epoch: store.write(epoch, rows))
    ),
    st.tuples(WHEN, st.floats(0.0, 20.0)).map(
        lambda times: Operation(
            f"expire {times}",
            lambda store, epoch: sorted(store.expire(epoch, finished_before=times[0], now=times[0] + times[1])),
        )
    ),
    st.just(Operation("begin_term", lambda store, _: store.begin_term())),
    st.sampled_from(["a", "b"]).map(
        lambda app: Operation(f"deploy {app}", lambda store, epoch: store.deploy(epoch, app, [spec(app)], now=1.0))
    ),
    st.sampled_from(["a", "b"]).map(
        lambda app: Operation(
            f"canary {app}",
            lambda store, epoch: store.deploy(
                epoch, app, [spec(app)], now=1.0, rollout=Rollout(app, 0, "canary", 1000, "active", 1.0)
            ),
        )
    ),
    st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 3)).map(
        lambda given: Operation(
            f"rollout {given}",
            lambda store, epoch: store.put_rollout(
                epoch, Rollout(given[0], given[1], "shadow", 5, "failed", 2.0, "why")
            ),
        )
    ),
    st.sampled_from(["a", "b"]).map(
        lambda app: Operation(f"undeploy {app}", lambda store, epoch: store.undeploy(epoch, app))
    ),
)


def everything(store: Store) -> tuple[object, ...]:
    ids = [f"c-0k3v9.{seq:06d}" for seq in CALLS]
    listed = [
        store.calls(function=function, state=state) for function in ("", "pool-a") for state in (None, *CallState)
    ]
    return (
        store.pending(after_seq=0, limit=100),
        store.pending(after_seq=3, limit=2),
        store.pending_count(),
        store.last_seq(),
        store.known(ids),
        [store.call(call_id) for call_id in ids],
        listed,
        store.deployments(),
        store.rollouts(),
        store.rollouts(app="a"),
    )

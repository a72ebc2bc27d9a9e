"""What every `Store` must do. A suite for one implementation inherits this and gives a `StoreOpener`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Thread

import pytest

from stoker.errors import Fenced, StoreError
from stoker.store.base import CallbackRow, Rollout, Store
from stoker.types import CallState
from tests.store.rows import accepted, failure, progress, settled, spec

StoreOpener = Callable[[], Store]
"""Opens one more handle on the same rows, as another server would."""


class StoreContract:
    @pytest.fixture
    def store(self, opened: StoreOpener) -> Store:
        return opened()

    @pytest.fixture
    def epoch(self, store: Store) -> int:
        return store.begin_term()

    def test_a_new_store_is_empty(self, store: Store) -> None:
        assert store.last_seq() == 0
        assert store.pending(after_seq=0, limit=10) == []
        assert store.pending_count() == 0
        assert store.calls() == []
        assert store.call("c-1") is None
        assert store.functions() == []
        assert store.deployments() == []

    def test_an_accepted_call_is_pending_with_all_that_it_carries(self, store: Store, epoch: int) -> None:
        row = accepted(
            7,
            priority=-3,
            deadline=1500.5,
            payload=b"\0bytes\xff",
            payload_blob="payload/c-7.args",
            parent="c-6",
            tags={"team": "vision", "ünï": "'\"\n"},
            method="predict",
            trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            request="POST /shop/möve",
            digest="5f" * 32,
        )
        store.write(epoch, [row])
        assert [pending.call for pending in store.pending(after_seq=0, limit=10)] == [row]
        record = store.call(row.id)
        assert record is not None
        assert (record.call, record.settled, record.expired) == (row, None, False)
        assert store.pending_count() == 1
        assert store.last_seq() == 7

    def test_pending_comes_in_pages_by_seq(self, store: Store, epoch: int) -> None:
        store.write(epoch, [accepted(seq) for seq in (5, 1, 4, 2, 3)])
        store.write(epoch, [settled(2)])
        assert [row.call.seq for row in store.pending(after_seq=0, limit=2)] == [1, 3]
        assert [row.call.seq for row in store.pending(after_seq=3, limit=2)] == [4, 5]
        assert store.pending(after_seq=5, limit=2) == []
        assert store.pending(after_seq=0, limit=0) == []

    def test_an_id_that_is_there_is_left_as_it_is(self, store: Store, epoch: int) -> None:
        store.write(epoch, [accepted(1, payload=b"first"), accepted(2, id="c-0k3v9.000001", payload=b"in the batch")])
        store.write(epoch, [accepted(3, id="c-0k3v9.000001", payload=b"again")])
        store.write(epoch, [accepted(1, payload=b"the same seq")])
        assert [row.call.payload for row in store.pending(after_seq=0, limit=10)] == [b"first"]

    def test_a_method_and_a_trace_stay_with_their_call(self, store: Store, epoch: int) -> None:
        rows = [accepted(1, method="embed"), accepted(2), accepted(3, trace="00-" + "1" * 32 + "-" + "2" * 16 + "-00")]
        store.write(epoch, rows)
        store.write(epoch, [accepted(4, id=rows[1].id, method="another's"), progress(1, 1, 0)])
        assert [row.call for row in store.pending(after_seq=0, limit=10)] == rows
        store.write(epoch, [settled(row.seq) for row in rows])
        assert [(one.call.method, one.call.trace) for one in store.calls()] == [
            (row.method, row.trace) for row in reversed(rows)
        ]
        for _ in range(2):
            store.expire(epoch, finished_before=9000.0, now=9000.0)
        store.write(epoch, [accepted(5)])
        assert [one.call for one in store.calls()] == [accepted(5)]

    def test_a_seq_that_another_id_holds_is_refused_with_its_whole_batch(self, store: Store, epoch: int) -> None:
        store.write(epoch, [accepted(1)])
        for batch in ([accepted(2), accepted(1, id="other")], [accepted(2), accepted(2, id="other")]):
            with pytest.raises(StoreError, match="none"):
                store.write(epoch, batch)
        assert [row.call.id for row in store.pending(after_seq=0, limit=10)] == ["c-0k3v9.000001"]
        assert store.known(["other", "c-0k3v9.000002"]) == set()

    def test_the_first_settled_row_wins(self, store: Store, epoch: int) -> None:
        first = settled(
            1,
            state=CallState.FAILED,
            attempts=3,
            error=failure(),
            timeline='[["queued",1]]',
            payload=b"e",
            payload_blob="x",
            status=422,
        )
        store.write(epoch, [accepted(1)])
        store.write(epoch, [first, settled(1, payload=b"second")])
        store.write(epoch, [settled(1, payload=b"third")])
        record = store.call(first.id)
        assert record is not None
        assert record.settled == first
        assert store.pending_count() == 0

    @pytest.mark.parametrize("state", [state for state in CallState if state.settled])
    def test_every_way_to_end_is_kept(self, store: Store, epoch: int, state: CallState) -> None:
        store.write(epoch, [accepted(1), settled(1, state=state)])
        record = store.call("c-0k3v9.000001")
        assert record is not None
        assert record.settled is not None
        assert record.settled.state is state
        assert [found.call.seq for found in store.calls(state=state)] == [1]
        assert store.calls(state=CallState.QUEUED) == []

    def test_an_errors_text_may_be_any_str(self, store: Store, epoch: int) -> None:
        error = failure("half a pair: \ud83d, a zero: \0")
        store.write(epoch, [accepted(1), settled(1, state=CallState.FAILED, error=error)])
        record = store.call("c-0k3v9.000001")
        assert record is not None
        assert record.settled is not None
        assert record.settled.error == error

    def test_settling_what_is_not_there_changes_nothing(self, store: Store, epoch: int) -> None:
        store.write(epoch, [settled(9), progress(9, 1, 1), accepted(1), settled(1, id="another id")])
        assert store.known(["c-0k3v9.000009"]) == set()
        assert store.pending_count() == 1

    def test_the_rows_of_a_batch_count_in_the_order_of_their_kinds(self, store: Store, epoch: int) -> None:
        store.write(epoch, [settled(1), progress(1, 2, 0), accepted(1)])
        record = store.call("c-0k3v9.000001")
        assert record is not None
        assert (record.failures, record.settled) == (2, settled(1))

    def test_attempts_used_survive_until_the_call_is_queued_again(self, store: Store, epoch: int) -> None:
        store.write(epoch, [accepted(1), accepted(2), progress(1, 1, 0), progress(1, 1, 2, 1234.5)])
        first, second = store.pending(after_seq=0, limit=10)
        assert (first.failures, first.losses, first.not_before) == (1, 2, 1234.5)
        assert (second.failures, second.losses, second.not_before) == (0, 0, 0.0)

    def test_what_has_happened_survives_until_the_call_is_queued_again(self, store: Store, epoch: int) -> None:
        told = '[[1000.5,"interrupted","attempt 1"]]'
        store.write(epoch, [accepted(1), accepted(2), progress(1, 0, 0, 0.0, "[]"), progress(1, 0, 0, 0.0, told)])
        assert [row.timeline for row in store.pending(after_seq=0, limit=10)] == [told, ""]

    def test_progress_of_a_settled_call_changes_nothing(self, store: Store, epoch: int) -> None:
        store.write(epoch, [accepted(1), progress(1, 1, 0), settled(1)])
        store.write(epoch, [progress(1, 5, 5)])
        record = store.call("c-0k3v9.000001")
        assert record is not None
        assert (record.failures, record.losses) == (1, 0)

    def test_known_returns_those_with_a_row(self, store: Store, epoch: int) -> None:
        store.write(epoch, [accepted(1), accepted(2), settled(1)])
        asked = [f"c-0k3v9.{seq:06d}" for seq in range(1, 3000)]
        assert store.known(asked) == {"c-0k3v9.000001", "c-0k3v9.000002"}
        assert store.known([]) == set()

    def test_calls_lists_the_newest_first_without_payloads(self, store: Store, epoch: int) -> None:
        store.write(epoch, [accepted(seq, function=f"pool-{seq % 2}", payload=b"args") for seq in range(1, 7)])
        store.write(epoch, [settled(2, payload=b"value"), settled(3, state=CallState.FAILED)])
        assert [record.call.seq for record in store.calls(limit=4)] == [6, 5, 4, 3]
        assert [record.call.seq for record in store.calls(function="pool-1")] == [5, 3, 1]
        assert [record.call.seq for record in store.calls(state=CallState.LEASED)] == [6, 5, 4, 1]
        assert [record.call.seq for record in store.calls(function="pool-0", state=CallState.SUCCEEDED)] == [2]
        assert [record.call.seq for record in store.calls(function="pool-1", state=CallState.FAILED)] == [3]
        assert store.calls(function="pool-9") == []
        assert {record.call.payload for record in store.calls()} == {b""}
        assert {record.settled.payload for record in store.calls() if record.settled} == {b""}

    def test_an_expired_result_is_gone_and_its_id_still_known(self, store: Store, epoch: int) -> None:
        store.write(epoch, [accepted(1, payload=b"in", payload_blob="args-1"), accepted(2), accepted(3)])
        store.write(
            epoch, [settled(1, payload_blob="out-1", error=failure(), timeline="[]"), settled(2, payload=b"out")]
        )
        assert sorted(store.expire(epoch, finished_before=2002.0, now=3000.0)) == ["args-1", "out-1"]
        record = store.call("c-0k3v9.000001")
        assert record is not None
        assert record.expired
        assert record.call == replace(accepted(1), payload=b"", payload_blob="")
        assert record.settled == settled(1)
        kept = store.call("c-0k3v9.000002")
        assert kept is not None
        assert kept.settled == settled(2, payload=b"out")
        assert store.expire(epoch, finished_before=2002.0, now=3000.0) == []
        assert store.pending_count() == 1

    def test_an_expired_call_is_forgotten_after_as_long_again(self, store: Store, epoch: int) -> None:
        store.write(epoch, [accepted(1), settled(1, finished=2000.0, payload_blob="out-1"), accepted(2, deadline=1.0)])
        assert store.expire(epoch, finished_before=2001.0, now=2101.0) == ["out-1"]
        assert store.expire(epoch, finished_before=2100.0, now=2200.0) == []
        assert store.known(["c-0k3v9.000001"])
        assert store.expire(epoch, finished_before=2101.0, now=2201.0) == ["out-1"], "named again, lest it be left"
        assert store.call("c-0k3v9.000001") is None
        assert store.expire(epoch, finished_before=2101.0, now=2201.0) == []
        store.write(epoch, [accepted(3)])

    def test_a_seq_is_not_given_twice_because_its_call_was_forgotten(self, store: Store, epoch: int) -> None:
        store.write(epoch, [accepted(41), settled(41)])
        for _ in range(2):
            store.expire(epoch, finished_before=9000.0, now=9000.0)
        assert store.calls() == []
        assert store.last_seq() == 41
        store.write(epoch, [accepted(42)])
        assert store.last_seq() == 42

    def test_the_payload_files_that_rows_name(self, store: Store, epoch: int) -> None:
        assert store.named(["in-1"]) == set()
        store.write(epoch, [accepted(1, payload_blob="in-1"), accepted(2), accepted(3, payload_blob="in-3")])
        store.write(epoch, [settled(1, payload_blob="out-1"), settled(2)])
        assert store.named(["in-1", "out-1", "in-2", "", "in-3"]) == {"in-1", "out-1", "in-3"}
        store.expire(epoch, finished_before=9000.0, now=9001.0)
        assert store.named({"in-1", "out-1"}) == {"in-1", "out-1"}, "until they are forgotten they may be there"
        store.expire(epoch, finished_before=9000.0, now=9000.0)
        assert store.named(["in-1", "out-1", "in-3"]) == {"in-3"}

    def test_expire_takes_any_number(self, store: Store, epoch: int) -> None:
        store.write(epoch, [accepted(seq, payload_blob=f"b{seq}") for seq in range(1, 2502)])
        store.write(epoch, [settled(seq) for seq in range(1, 2502)])
        assert len(store.expire(epoch, finished_before=9000.0, now=9001.0)) == 2501
        assert len(store.expire(epoch, finished_before=9000.0, now=9000.0)) == 2501
        assert store.calls() == []

    def test_expire_uses_the_clock_where_no_time_is_given(self, store: Store, epoch: int) -> None:
        finished = time.time() - 100.0
        store.write(epoch, [accepted(1), settled(1, finished=finished)])
        store.expire(epoch, finished_before=finished + 1.0)
        store.expire(epoch, finished_before=finished + 1.0)
        record = store.call("c-0k3v9.000001")
        assert record is not None
        assert record.expired

    def test_a_function_is_kept_by_its_key(self, store: Store, epoch: int) -> None:
        first, second = spec("a"), spec("b", run_id="r-1", kind="generator")
        for kept in (first, second, first):
            store.put_function(epoch, kept)
        assert store.function(first.key) == first
        assert store.function(second.key) == second
        assert store.function("no such key") is None
        assert sorted(store.functions(), key=lambda kept: kept.name) == [first, second]

    def test_each_deploy_makes_a_new_current_version(self, store: Store, epoch: int) -> None:
        first = store.deploy(epoch, "digits", [spec("a", run_id="r-1")], now=1.0, tags={"team": "vision"})
        second = store.deploy(epoch, "digits", [spec("a"), spec("b")], now=2.0)
        other = store.deploy(epoch, "letters", [], now=3.0)
        assert [(made.version, made.current) for made in (first, second, other)] == [(1, True), (2, True), (1, True)]
        assert first.functions == (spec("a", version=1),)
        assert {kept.version for kept in second.functions} == {2}
        assert store.deployments() == [other, second, replace(first, current=False)]
        assert store.deployments(app="digits") == [second, replace(first, current=False)]

    def test_functions_of_a_deployment_are_kept(self, store: Store, epoch: int) -> None:
        made = store.deploy(epoch, "digits", [spec("a", run_id="r-1")], now=1.0)
        assert store.functions() == list(made.functions)

    def test_pruning_keeps_the_latest_old_versions_and_what_is_needed(self, store: Store, epoch: int) -> None:
        versions = [store.deploy(epoch, "digits", [spec("a")], now=float(n)) for n in range(5)]
        run, used, called = spec("run", run_id="r-1"), spec("used", run_id="r-2"), spec("called", run_id="r-3")
        for kept in (run, used, called):
            store.put_function(epoch, kept)
        store.write(epoch, [accepted(1, function=called.key), settled(1)])
        prune = partial(store.prune, epoch, in_use=[used.key], old_versions=2, unused_for=100.0)
        assert prune(now=1000.0) == []
        assert [made.version for made in store.deployments()] == [5, 4, 3]
        assert prune(now=1099.0) == []
        dropped = {run.key, versions[0].functions[0].key, versions[1].functions[0].key}
        assert set(prune(now=1100.0)) == dropped
        assert {kept.key for kept in store.functions()} == {
            used.key,
            called.key,
            *(made.functions[0].key for made in versions[2:]),
        }
        assert store.deploy(epoch, "digits", [spec("a")], now=9.0).version == 6

    def test_pruning_keeps_the_versions_that_are_in_use(self, store: Store, epoch: int) -> None:
        first, *later = [store.deploy(epoch, "digits", [spec("a"), spec("b")], now=float(n)) for n in range(6)]
        store.deploy(epoch, "letters", [spec("a")], now=7.0)
        prune = partial(store.prune, epoch, old_versions=2, now=1000.0, unused_for=100.0)
        prune(in_use=[first.functions[1].key, later[-1].functions[0].key])
        assert [made.version for made in store.deployments(app="digits")] == [6, 5, 4, 1]
        prune(in_use=[])
        assert [made.version for made in store.deployments(app="digits")] == [6, 5, 4]

    def test_what_was_needed_again_is_counted_from_anew(self, store: Store, epoch: int) -> None:
        store.put_function(epoch, spec("a"))
        prune = partial(store.prune, epoch, old_versions=2, unused_for=100.0)
        assert prune(in_use=[], now=1000.0) == []
        assert prune(in_use=[spec("a").key], now=1050.0) == []
        assert prune(in_use=[], now=1120.0) == []
        assert prune(in_use=[], now=1220.0) == [spec("a").key]

    def test_an_app_without_a_current_version_gives_no_number_twice_after_pruning(
        self, store: Store, epoch: int
    ) -> None:
        for n in range(3):
            store.deploy(epoch, "digits", [spec()], now=float(n))
        store.undeploy(epoch, "digits")
        store.prune(epoch, in_use=[], old_versions=1, now=9.0, unused_for=0.0)
        assert [made.version for made in store.deployments()] == [3]
        assert store.deploy(epoch, "digits", [spec()], now=9.0).version == 4

    def test_undeploy_leaves_no_current_version_and_gives_no_number_twice(self, store: Store, epoch: int) -> None:
        store.deploy(epoch, "digits", [spec()], now=1.0)
        assert store.undeploy(epoch, "digits")
        assert not store.undeploy(epoch, "digits")
        assert not store.undeploy(epoch, "never seen")
        assert [made.current for made in store.deployments()] == [False]
        assert store.deploy(epoch, "digits", [spec()], now=2.0).version == 2

    def test_a_version_beside_the_current_one_leaves_that_as_it_is(self, store: Store, epoch: int) -> None:
        canary = Rollout("digits", 0, "canary", 1000, "active", 2.0)
        store.deploy(epoch, "digits", [spec("a")], now=1.0)
        made = store.deploy(epoch, "digits", [spec("b")], now=2.0, rollout=canary)
        assert (made.version, made.current) == (2, False)
        assert [(one.version, one.current) for one in store.deployments()] == [(2, False), (1, True)]
        canary = replace(canary, version=2)
        assert store.rollouts() == [canary] == store.rollouts(app="digits")
        assert store.rollouts(app="other") == []
        failed = replace(canary, state="failed", why="it could not start", parts=0, changed=3.0)
        store.put_rollout(epoch, failed)
        assert store.rollouts() == [failed]

    def test_a_version_that_is_promoted_is_the_current_one(self, store: Store, epoch: int) -> None:
        canary = Rollout("digits", 0, "canary", 1000, "active", 2.0)
        store.deploy(epoch, "digits", [spec("a")], now=1.0)
        store.deploy(epoch, "digits", [spec("b")], now=2.0, rollout=canary)
        promoted = replace(canary, version=2, state="promoted")
        store.put_rollout(epoch, promoted, makes_current=True)
        assert [(one.version, one.current) for one in store.deployments()] == [(2, True), (1, False)]
        for n in range(3):
            store.deploy(epoch, "digits", [spec("c")], now=3.0 + n)
        store.prune(epoch, in_use=[], old_versions=1, now=9.0, unused_for=100.0)
        assert store.rollouts() == [], "it is forgotten with its version"

    def test_what_others_become_by_a_version_is_written_with_it_or_nothing_is(self, store: Store, epoch: int) -> None:
        canary = Rollout("digits", 0, "canary", 1000, "active", 2.0)
        store.deploy(epoch, "digits", [spec("a")], now=1.0)
        store.deploy(epoch, "digits", [spec("b")], now=2.0, rollout=canary)
        before = store.deployments(), store.rollouts(), store.functions()

        def none(version: int) -> list[Rollout]:
            raise ValueError(f"of version {version}")

        with pytest.raises(ValueError, match="of version 3"):
            store.deploy(epoch, "digits", [spec("c")], now=3.0, others=none)
        assert (store.deployments(), store.rollouts(), store.functions()) == before
        ended = replace(canary, version=2, state="replaced")
        made = store.deploy(
            epoch, "digits", [spec("c")], now=3.0, others=lambda version: [replace(ended, why=f"by {version}")]
        )
        assert (made.version, made.current) == (3, True)
        assert store.rollouts() == [replace(ended, why="by 3")]
        other = Rollout("digits", 1, "", 0, "never ready", 4.0)
        store.put_rollout(epoch, replace(ended, state="promoted"), other, makes_current=True)
        assert store.rollouts() == [replace(ended, state="promoted"), other]
        assert [one.version for one in store.deployments() if one.current] == [2]
        assert store.undeploy(epoch, "digits", replace(other, why="stopped"))
        assert store.rollouts()[1].why == "stopped"

    def test_terms_count_up_over_all_handles(self, opened: StoreOpener) -> None:
        assert [opened().begin_term() for _ in range(3)] == [1, 2, 3]

    def test_a_new_term_fences_every_write_of_the_older_one(self, opened: StoreOpener) -> None:
        older, newer = opened(), opened()
        epoch = older.begin_term()
        older.write(epoch, [accepted(1), accepted(2), settled(2)])
        current = newer.begin_term()
        writes: list[Callable[[], object]] = [
            lambda: older.prove(epoch),
            lambda: older.write(epoch, [accepted(3)]),
            lambda: older.write(epoch, [settled(1)]),
            lambda: older.expire(epoch, finished_before=9e9),
            lambda: older.put_function(epoch, spec()),
            lambda: older.deploy(epoch, "digits", [spec()], now=1.0),
            lambda: older.undeploy(epoch, "digits"),
            lambda: older.put_rollout(epoch, Rollout("digits", 1, "canary", 1, "active", 1.0)),
        ]
        for write in writes:
            with pytest.raises(Fenced, match=f"{current}"):
                write()
        assert [row.call.seq for row in newer.pending(after_seq=0, limit=10)] == [1]
        assert (newer.functions(), newer.deployments()) == ([], [])
        newer.write(current, [settled(1)])
        assert older.pending_count() == 0, "it may still read"

    def test_a_term_that_never_began_may_not_write(self, store: Store, epoch: int) -> None:
        with pytest.raises(Fenced):
            store.write(epoch + 1, [accepted(1)])

    def test_a_term_that_is_the_current_one_proves_it(self, store: Store, epoch: int) -> None:
        store.prove(epoch)
        assert store.last_seq() == 0

    def test_what_one_handle_wrote_another_reads(self, opened: StoreOpener) -> None:
        writer, reader = opened(), opened()
        writer.write(writer.begin_term(), [accepted(1)])
        assert reader.pending_count() == 1

    def test_readers_of_other_threads_see_whole_batches(self, store: Store, epoch: int) -> None:
        counts: list[int] = []
        failures: list[StoreError] = []

        def read() -> None:
            try:
                while not counts or counts[-1] < 1000:
                    counts.append(store.pending_count())
            except StoreError as error:
                failures.append(error)

        threads = [Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for start in range(1, 1001, 50):
            store.write(epoch, [accepted(seq) for seq in range(start, start + 50)])
        for thread in threads:
            thread.join()
        assert failures == []
        assert {count % 50 for count in counts} == {0}

    def test_an_empty_write_is_fine(self, store: Store, epoch: int) -> None:
        store.write(epoch, [])
        assert store.last_seq() == 0

    def test_a_closed_store_says_so(self, store: Store, epoch: int) -> None:
        store.close()
        store.close()
        with pytest.raises(StoreError, match="closed"):
            store.write(epoch, [accepted(1)])
        with pytest.raises(StoreError, match="closed"):
            store.pending_count()

    def test_callbacks_are_kept_until_they_were_over_for_long_enough(self, store: Store, epoch: int) -> None:
        rows = [CallbackRow(f"h-{n}", f"https://example.org/{n}", "abc", 100.0 + n) for n in range(3)]
        for row in rows:
            store.put_callback(epoch, row)
        assert store.callbacks(limit=10) == rows[::-1] and store.callbacks(limit=2) == [rows[2], rows[1]]
        tried = replace(rows[0], state="due", attempts=2, at=130.5, said="answered 500 \udc80\0")
        store.put_callback(epoch, tried)
        found = store.callback("h-0")
        assert found is not None and replace(found, said="") == replace(tried, said="")
        over = [replace(rows[1], state="delivered", at=200.0), replace(rows[2], state="failed", at=300.0)]
        for row in over:
            store.put_callback(epoch, row)
        assert [row.call_id for row in store.callbacks(open_only=True, limit=10)] == ["h-0"]
        store.expire_callbacks(epoch, over_before=250.0)
        assert [row.call_id for row in store.callbacks(limit=10)] == ["h-2", "h-0"]
        store.drop_callback(epoch, "h-0")
        store.drop_callback(epoch, "h-0")
        assert store.callback("h-0") is None
        newer = store.begin_term()
        with pytest.raises(Fenced):
            store.put_callback(epoch, rows[0])
        store.put_callback(newer, rows[0])

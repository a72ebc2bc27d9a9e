"""The store's thread: in order, in groups, and what becomes of each batch is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from stoker.errors import StoreError
from stoker.server.writer import ROWS_MAX, StoreWriter
from stoker.store.base import AcceptedRow, StoreUnavailable, Write
from stoker.testing.seams import MemoryStore

from .harness import GatedStore


class Told:
    """What a writer told the loop, and its store."""

    def __init__(self) -> None:
        self.store = GatedStore()
        self.epoch = self.store.begin_term()
        self.done: list[list[int]] = []
        self.failed: list[tuple[list[int], str]] = []
        self.over: list[str] = []
        self.writer = StoreWriter(
            self.store,
            self.epoch,
            done=self.done.append,
            failed=lambda tokens, reason, of_rows: self.failed.append((tokens, reason + " (rows)" * of_rows)),
            over=self.over.append,
        )

    async def drained(self) -> None:
        """Wait for all that was put in so far."""
        reached = asyncio.Event()
        loop = asyncio.get_running_loop()

        def reach() -> None:
            loop.call_soon_threadsafe(reached.set)

        self.writer.job(reach)
        await asyncio.wait_for(reached.wait(), 10.0)

    def ids(self) -> list[list[str]]:
        return [[row.id for row in rows if isinstance(row, AcceptedRow)] for rows in self.store.commits]


@pytest.fixture
async def told() -> Told:
    return Told()


@pytest.fixture(autouse=True)
def closed(told: Told) -> Iterator[None]:
    yield
    told.store.gate.set()
    told.writer.close()


def rows(*numbers: int) -> list[Write]:
    return [AcceptedRow(n, f"c-1.{n}", "f", "c-1", 0, 1.0) for n in numbers]


async def test_what_comes_while_it_writes_goes_into_the_next_transaction_in_order(told: Told) -> None:
    told.store.gate.clear()
    order: list[str] = []

    def prepare(n: int) -> list[Write]:
        order.append(f"rows {n}")
        return rows(n)

    for n in range(1, 6):
        told.writer.write(n, partial(prepare, n))
    told.writer.job(lambda: order.append("job"))
    told.writer.write(6, lambda: rows(6))
    told.store.gate.set()
    await told.drained()
    assert order == [*(f"rows {n}" for n in range(1, 6)), "job"]
    assert [one for commit in told.ids() for one in commit] == [f"c-1.{n}" for n in range(1, 7)]
    assert len(told.ids()) <= 3
    assert [token for tokens in told.done for token in tokens] == [1, 2, 3, 4, 5, 6]
    assert told.ids()[-1] == ["c-1.6"], "a job takes its place in the order"


async def test_a_transaction_has_a_bounded_number_of_rows(told: Told) -> None:
    told.store.gate.clear()
    told.writer.write(1, lambda: rows(1))
    for n in range(2, 8):
        told.writer.write(n, partial(rows, *range(n * 1000, n * 1000 + 1000)))
    told.store.gate.set()
    await told.drained()
    assert sum(map(len, told.store.commits)) == 6001
    assert all(len(commit) < ROWS_MAX + 1000 for commit in told.store.commits)
    assert [token for tokens in told.done for token in tokens] == list(range(1, 8))


async def test_a_batch_that_cannot_be_prepared_fails_alone(told: Told) -> None:
    def broken() -> Sequence[Write]:
        raise StoreError("its payload is gone")

    told.store.gate.clear()
    told.writer.write(1, lambda: rows(1))
    told.writer.write(2, broken)
    told.writer.write(3, lambda: rows(3))
    told.store.gate.set()
    await told.drained()
    assert told.failed == [([2], "its payload is gone")]
    assert sorted(token for tokens in told.done for token in tokens) == [1, 3]
    assert told.store.known(["c-1.1", "c-1.2", "c-1.3"]) == {"c-1.1", "c-1.3"}


async def test_a_refused_transaction_fails_all_of_its_batches_and_the_next_goes_on(told: Told) -> None:
    told.store.refusing = "disk full"
    told.writer.write(1, lambda: rows(1))
    await told.drained()
    assert told.failed == [([1], "disk full")]
    told.store.refusing = ""
    told.writer.write(2, lambda: rows(2))
    await told.drained()
    assert told.done == [[2]]


async def test_nobody_is_told_of_what_nobody_waits_for(told: Told) -> None:
    told.writer.write(0, lambda: rows(1))
    told.writer.write(4, lambda: rows(2))
    await told.drained()
    assert [token for tokens in told.done for token in tokens] == [4]
    assert told.store.pending_count() == 2


async def test_an_overtaken_server_is_told_and_writes_nothing(told: Told) -> None:
    MemoryStore(told.store.backing).begin_term()
    told.writer.write(1, lambda: rows(1))
    told.writer.job(lambda: told.store.put_function(told.epoch, None))  # type: ignore[arg-type]
    await told.drained()
    assert len(told.over) == 2
    assert (told.done, told.failed) == ([], [])
    assert told.store.pending_count() == 0


async def test_a_job_that_fails_does_not_end_the_thread(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise OSError("no such file")

    told.writer.job(broken)
    told.writer.write(1, lambda: rows(1))
    await told.drained()
    assert told.done == [[1]]
    assert "no such file" in caplog.text


async def test_a_thread_that_fails_is_not_mourned_in_silence(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Sequence[Write]:
        raise ZeroDivisionError("an error in Stoker")

    told.writer.write(1, broken)
    while not told.over:
        await asyncio.sleep(0)
    assert "an error in Stoker" in told.over[0]
    assert "the store's thread failed" in caplog.text
    assert told.done == []


async def test_closing_finishes_what_was_put_in(told: Told) -> None:
    told.store.gate.clear()
    told.writer.write(1, lambda: rows(1))
    told.writer.write(2, lambda: rows(2))
    closing = threading.Thread(target=told.writer.close)
    closing.start()
    told.store.gate.set()
    await asyncio.to_thread(closing.join, 10.0)
    assert told.store.pending_count() == 2
    told.writer = Told().writer  # another one for the fixture to close


async def test_refused_rows_are_found_and_the_others_written_in_order(told: Told) -> None:
    told.store.poisoned = {"c-1.3", "c-1.4"}
    told.store.gate.clear()
    told.writer.write(1, lambda: rows(1))
    for n in range(2, 9):
        told.writer.write(n, partial(rows, n))
    told.store.gate.set()
    await told.drained()
    assert told.failed == [([3], "it is poisoned (rows)"), ([4], "it is poisoned (rows)")]
    assert [token for tokens in told.done for token in tokens] == [1, 2, 5, 6, 7, 8]
    assert [one for commit in told.ids() for one in commit] == [f"c-1.{n}" for n in (1, 2, 5, 6, 7, 8)]


async def test_a_store_that_is_away_is_waited_for_and_nothing_is_refused(told: Told) -> None:
    told.store.away = 3
    kept: list[str] = []

    def keep() -> None:
        if not kept:
            kept.append("once")
            raise StoreUnavailable("it is away")
        kept.append("again")

    told.writer.write(1, lambda: rows(1))
    told.writer.job(keep)
    told.writer.write(2, lambda: rows(2))
    await told.drained()
    assert (told.done, told.failed, told.over) == ([[1], [2]], [], [])
    assert kept == ["once", "again"]
    assert told.ids() == [["c-1.1"], ["c-1.2"]]


async def test_a_server_that_ends_does_not_wait_for_ever(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.server.writer.LAST_TRIES_S", 0.05)
    told.store.away = 1 << 30
    told.writer.write(1, lambda: rows(1))
    told.writer.job(lambda: told.store.write(told.epoch, rows(2)))
    await asyncio.to_thread(told.writer.close)
    assert told.store.pending_count() == 0
    told.writer = Told().writer  # another one for the fixture to close


async def test_an_idle_server_proves_that_the_store_is_its_own(told: Told) -> None:
    told.writer.close()
    told.store.proves_every = 0.01
    overtaken = asyncio.Event()
    told.writer = StoreWriter(
        told.store,
        told.epoch,
        done=told.done.append,
        failed=lambda *_: None,
        over=lambda reason: overtaken.set(),
    )
    MemoryStore(told.store.backing).begin_term()
    await asyncio.wait_for(overtaken.wait(), 10.0)
    assert told.writer.fenced

"""The SQLite store between processes: one that is killed loses nothing, one that is outlived writes nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from stoker.errors import StoreError
from stoker.store.sqlite import SqliteStore
from tests.store.rows import accepted
from tests.store.writer_process import BATCH, payload
from tests.waiting import wait_until

KILLS = 20


@contextmanager
def writer(path: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    command = [sys.executable, "-m", "tests.store.writer_process", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


def last_done(lines: list[str]) -> int:
    """Return the seq of the last whole line that says one."""
    done = [int(line.split()[1]) for line in lines if line.startswith("done ") and line.endswith("\n")]
    return done[-1] if done else 0


def killed_after(path: Path, batches: int) -> int:
    """Kill a writer soon after it wrote so many batches; return the greatest seq that it said is durable."""
    with writer(path) as (process, output):
        lines = [output.readline() for _ in range(1 + batches)]
        process.kill()
        lines += output.readlines()
    return last_done(lines)


def check_whole(path: Path, *, durable: int) -> int:
    """Check that all that was durable is there, that batches are whole and rows not torn; return the greatest seq."""
    store = SqliteStore(path)
    last = store.last_seq()
    assert last >= durable
    assert last % BATCH == 0, "half a batch"
    pending = store.pending(after_seq=0, limit=1_000_000)
    assert [row.call for row in pending] == [accepted(r.call.seq, payload=payload(r.call.seq)) for r in pending]
    missing = set(range(1, last + 1)) - {row.call.seq for row in pending}
    assert missing == set(range(1, last - BATCH + 1, BATCH)), "settled: the first of each batch but the last"
    for seq in (seq for seq in missing if seq > durable - 3 * BATCH):
        record = store.call(f"c-0k3v9.{seq:06d}")
        assert record is not None
        assert record.settled is not None
        assert record.settled.payload in (payload(seq + BATCH), payload(BATCH + 1))
    store.close()
    return last


@pytest.mark.chaos
def test_what_write_returned_for_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    rng = random.Random(7)
    durable = 0
    for _ in range(KILLS):
        durable = max(durable, killed_after(path, rng.randrange(1, 40)))
        durable = check_whole(path, durable=durable)


@pytest.mark.chaos
def test_a_process_killed_while_it_makes_the_store_leaves_one_that_opens(tmp_path: Path) -> None:
    for attempt in range(5):
        path = tmp_path / f"{attempt}.db"
        with writer(path) as (process, _):
            wait_until(path.exists, message="the file is made")
            process.kill()
        store = SqliteStore(path)
        store.begin_term()
        store.close()


def test_a_newer_process_fences_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with writer(path) as (process, output):
        assert output.readline() == "epoch 1\n"
        assert output.readline().startswith("done")
        store = SqliteStore(path)
        assert store.begin_term() == 2
        before = store.last_seq()
        lines = output.readlines()
        assert lines[-1] == "fenced\n"
        assert process.wait(10) == 0
    assert store.last_seq() == before >= last_done(lines)
    store.close()


@pytest.mark.chaos
def test_a_process_stopped_and_continued_after_another_took_over_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with writer(path) as (process, output):
        assert output.readline() == "epoch 1\n"
        assert output.readline().startswith("done")
        store = SqliteStore(path, busy_timeout=0.05)
        wait_until(lambda: take_over_while_stopped(process.pid, store), message="it was stopped between transactions")
        before = store.last_seq()
        store.write(2, [accepted(before + 1, id="the newer one's")])
        os.kill(process.pid, signal.SIGCONT)
        lines = output.readlines()
        assert lines[-1] == "fenced\n"
    assert store.last_seq() == before + 1
    assert last_done(lines) <= before
    store.close()


def take_over_while_stopped(pid: int, store: SqliteStore) -> bool:
    """Stop the process and begin a term. Stopped within a transaction, it holds the lock: let it go on, try again."""
    os.kill(pid, signal.SIGSTOP)
    try:
        return store.begin_term() == 2
    except StoreError:
        os.kill(pid, signal.SIGCONT)
        return False

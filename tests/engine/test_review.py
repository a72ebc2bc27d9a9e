"""The agent beside programs that are killed, or that hold the shared capacity file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stoker.engine.local import ledger as ledgers
from stoker.engine.local.capacity import CapacityLedger
from stoker.engine.local.ledger import Ledger, WorkerEntry
from stoker.engine.local.node import NodeSize
from stoker.protocol.messages import NodeState, Reply, Request, WorkerStarted
from tests.engine.conftest import Bench
from tests.engine.fake_server import order
from tests.engine.waiting import until

SIZE = NodeSize(4.0, 4 << 30)


async def test_what_a_killed_program_held_is_free_again(bench: Bench, short_path: Path) -> None:
    bench.start_agent()
    await bench.server.get(NodeState, cpus_free=4.0)
    other = CapacityLedger(short_path / "rt" / "capacity.json", run="other", size=SIZE)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert other.reserve("w", cpus=3.0, memory=0)
        other.hand_over("w", child.pid)
        await bench.server.get(NodeState, cpus_free=1.0)
    finally:
        child.kill()
        child.communicate()
    await until(lambda: bench.server.all(NodeState)[-1].cpus_free == 4.0, what="the killed program's cores")


async def test_lending_waits_for_a_capacity_file_that_is_held(bench: Bench, short_path: Path) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function(), cpus=4))
    await bench.server.get(WorkerStarted, worker="w1")
    path = short_path / "rt" / "capacity.json"
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(path.with_suffix(".lock"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        bench.server.send(Request(7, "lend", {"worker": "w1", "cpus": 0.0}))
        assert (await bench.server.get(Reply, id=7)).error is None
        holder.kill()
    ledger = CapacityLedger(path, run="looking", size=SIZE)
    await until(lambda: ledger.left_by_others().cpus == 4.0, what="the lent cores")
    assert len(bench.server.all(NodeState)) == 1, "the link held"


def test_a_ledger_that_cannot_be_written_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    ledger = Ledger(tmp_path / "agent.ledger")
    with monkeypatch.context() as patched:
        patched.setattr(ledgers, "write_state", full)
        ledger.add(WorkerEntry("w1", "f", "a.f", 1, 1, 1.0, 0, 0.0))
    ledger.set_term(2)
    assert [entry.worker for entry in Ledger(tmp_path / "agent.ledger").state.workers] == ["w1"]

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.engine.local import capacity
from stoker.engine.local.capacity import CapacityBusy, CapacityLedger, Holding, alive, fits, total
from stoker.engine.local.node import NodeSize
from stoker.engine.local.processes import start_time
from tests.engine.waiting import until

SIZE = NodeSize(4.0, 1000)
steps = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "release", "end"]),
        st.integers(0, 2),
        st.integers(0, 5),
        st.sampled_from([0.25, 1.0, 2.0, 4.0]),
        st.integers(0, 600),
    ),
    max_size=60,
)


@given(steps)
def test_reservations_never_exceed_the_node(script: list[tuple[str, int, int, float, int]]) -> None:
    held: list[Holding] = []
    living = {1: 10, 2: 20, 3: 30}
    for verb, run, worker, cpus, memory in script:
        if verb == "end":
            living[run + 1] += 1  # that process is gone; its pid is another one's now
        held = alive(held, living.get)
        if verb == "reserve" and fits(held, cpus=cpus, memory=memory, size=SIZE):
            held = [*held, Holding(f"r{run}", f"w{worker}", run + 1, living[run + 1], cpus, memory)]
        elif verb == "release":
            held = [one for one in held if (one.run, one.worker) != (f"r{run}", f"w{worker}")]
        sums = total(held)
        assert sums.cpus <= SIZE.cpus and sums.memory <= SIZE.memory
        assert all(living[one.pid] == one.start for one in held)


PROGRAM = """
import sys
from pathlib import Path
from stoker.engine.local.capacity import CapacityLedger
from stoker.engine.local.node import NodeSize
ledger = CapacityLedger(Path(sys.argv[1]), run=sys.argv[2], size=NodeSize(10.0, 1 << 30))
got = sum(ledger.reserve(f"w{i}", cpus=1.0, memory=1) for i in range(10))
print(got, flush=True)
sys.stdin.read()
"""


async def test_programs_at_once_never_share_a_core(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), f"run{i}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    ledger = CapacityLedger(path, run="mine", size=NodeSize(10.0, 1 << 30))
    try:
        got = [int(program.stdout.readline()) for program in programs if program.stdout]
        assert sum(got) == 10 and ledger.others().cpus == 10.0
        programs[0].kill()
        await until(lambda: ledger.others().cpus == 10.0 - got[0], what="the killed program's cores")
    finally:
        for program in programs:
            program.kill()
            program.communicate()


def test_a_worker_holds_its_capacity_itself(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    ledger = CapacityLedger(path, run="a", size=SIZE)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert ledger.reserve("w", cpus=3.0, memory=500)
        ledger.hand_over("w", child.pid)
        other = CapacityLedger(path, run="b", size=SIZE)
        assert not other.reserve("v", cpus=2.0, memory=0)
        assert other.touched() and not other.touched()
        ledger.lend("w", cpus=0.0)
        assert other.touched() and other.left_by_others() == NodeSize(4.0, 500)
        assert other.reserve("v", cpus=2.0, memory=0)
        ledger.lend("w", cpus=3.0)
        assert other.left_by_others().cpus == 1.0
    finally:
        child.kill()
        child.communicate()
    assert other.left_by_others() == SIZE
    other.release_all()
    assert ledger.others() == NodeSize(0, 0)


def test_a_holder_that_hangs_hangs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "LOCK_PATIENCE_SECONDS", 0.05)
    path = tmp_path / "capacity.json"
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(path.with_suffix(".lock"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(CapacityBusy):
            CapacityLedger(path, run="a", size=SIZE).reserve("w", cpus=1.0, memory=0)
        holder.send_signal(signal.SIGKILL)
    assert CapacityLedger(path, run="a", size=SIZE).reserve("w", cpus=1.0, memory=0)
    assert start_time(os.getpid()) is not None


def test_a_file_of_another_version_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    path.write_text('[{"who": "knows"}]')
    assert CapacityLedger(path, run="a", size=SIZE).reserve("w", cpus=4.0, memory=0)

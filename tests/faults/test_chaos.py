"""SIGKILL at random moments under load: nothing lost, nothing twice, nothing left behind.

More than a hundred kills in all, over workers, zygotes, agents, servers and clients. Each test prints its seed.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import stoker
from stoker.client import session as sessions
from tests import leftovers
from tests.faults import work
from tests.faults.load import call_under, map_under, spawn_under
from tests.faults.running import Chaos, PersistentServer, Program, Supervised, by_role, kill
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(150)]

PROGRAMS = Path(__file__).parent / "programs"
SUCCEEDED = 1  # as the store writes it
GONE_SECONDS = 30.0  # the agent's ten seconds without a server, and what a busy machine adds


def test_an_attached_map_survives_whatever_is_killed_under_it(runtime_dir: Path) -> None:
    weights = {"worker": 8.0, "zygote": 2.0, "agent": 1.5, "server": 1.5}
    limits = {"server": 4, "agent": 8}
    with work.app.run(), Chaos(runtime_dir, weights=weights, pause=(0.1, 0.5), limits=limits) as chaos:
        map_under(chaos, kills=45, seconds=60)
    assert {"worker", "zygote", "agent", "server"} <= set(chaos.killed)


def test_single_calls_survive_whatever_is_killed_under_them(runtime_dir: Path) -> None:
    """They go straight to a worker that the client was lent, and come back by the server when that is killed."""
    weights = {"worker": 8.0, "zygote": 1.0, "agent": 1.0, "server": 1.0}
    limits = {"server": 3, "agent": 4}
    with work.app.run(), Chaos(runtime_dir, weights=weights, pause=(0.05, 0.4), limits=limits) as chaos:
        call_under(chaos, kills=20, seconds=45)


def test_every_accepted_detached_call_is_settled_once(own_home: Path, runtime_dir: Path) -> None:
    weights = {"worker": 8.0, "zygote": 2.0, "agent": 1.5, "server": 1.5}
    with Supervised() as supervised:
        with work.app.run(), Chaos(runtime_dir, weights=weights, pause=(0.1, 0.6)) as chaos:
            calls = spawn_under(chaos, kills=55, seconds=60)
        assert not supervised.errors
        assert {"worker", "zygote", "agent", "server"} <= set(chaos.killed)
        again = [stoker.Call.from_id(call.id) for call in calls.values()]
        assert [call.result(timeout=30) for call in again] == [x * x for x in calls]
        sessions.close()
    _check_rows(own_home, {call.id for call in calls.values()})


def _check_rows(home: Path, ids: set[str]) -> None:
    query = "SELECT id, state, count(results.seq) FROM calls LEFT JOIN results USING (seq) GROUP BY id"
    with closing(sqlite3.connect(home / "server" / "store.db")) as store:
        rows = {call_id: (state, results) for call_id, state, results in store.execute(query)}
    assert rows.keys() == ids
    assert set(rows.values()) == {(SUCCEEDED, 1)}


def test_a_killed_client_leaves_nothing(runtime_dir: Path) -> None:
    for _ in range(3):
        program = Program(PROGRAMS / "long_map.py")
        wait_until(lambda: len(by_role(runtime_dir).get("worker", ())) >= 2, timeout=20, message="its workers run")
        assert kill(program.process.pid)
        program.process.wait()
        wait_until(lambda: not leftovers.of(runtime_dir), timeout=GONE_SECONDS, message="all of it is gone")


def test_attached_calls_of_a_killed_client_are_cancelled_with_a_persistent_server(
    server: PersistentServer, runtime_dir: Path, tmp_path: Path
) -> None:
    program = Program(PROGRAMS / "long_map.py")
    with work.app.run():
        session = sessions.current()
        wait_until(lambda: session.request("status")["calls"]["running"] >= 2, timeout=20, message="its calls run")
        assert kill(program.process.pid)
        program.process.wait()
        wait_until(lambda: not sum(session.request("status")["calls"].values()), message="they are cancelled")
        assert work.square.remote(2) == 4


def test_everything_ends_when_client_server_and_agent_are_killed_at_once(runtime_dir: Path) -> None:
    program = Program(PROGRAMS / "long_map.py")
    wait_until(lambda: len(by_role(runtime_dir).get("worker", ())) >= 2, timeout=20, message="its workers run")
    roles = by_role(runtime_dir)
    for pid in [program.process.pid, *roles["server"], *roles["agent"]]:
        assert kill(pid)
    program.process.wait()
    wait_until(lambda: not leftovers.processes_of(runtime_dir), timeout=GONE_SECONDS, message="its processes are gone")
    # Nobody is left to remove the files: the next program of this user does.
    with work.app.run():
        assert work.square.remote(3) == 9

"""SIGKILL at random moments on two nodes of a Ray: nothing lost, nothing twice.

An agent that is killed takes its workers with it there, and both it and a server take seconds to be back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import gang_work, work
from tests.faults.load import map_under, spawn_under
from tests.faults.running import Chaos, Supervised
from tests.on_ray.running import OnRay, check_settled_once, on_ray

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(200)]

WEIGHTS = {"worker": 8.0, "zygote": 2.0, "agent": 2.0, "server": 2.0}
LIMITS = {"agent": 2, "server": 2}


@pytest.fixture(scope="module")
def shaken() -> Iterator[OnRay]:
    """Have a Ray of their own for these: what they shake loose falls on no other test."""
    with on_ray() as found:
        yield found


@pytest.fixture
def ray(shaken: OnRay) -> OnRay:
    return shaken


def test_an_attached_map_survives_whatever_is_killed_under_it(ray: OnRay, runtime_dir: Path) -> None:
    with (
        Supervised(ray.server),
        work.app.run(show_progress=False),
        Chaos(runtime_dir, weights=WEIGHTS, pause=(0.2, 1.0), limits=LIMITS) as chaos,
    ):
        map_under(chaos, kills=15, seconds=90)


def test_every_accepted_detached_call_is_settled_once(ray: OnRay, runtime_dir: Path) -> None:
    with Supervised(ray.server) as supervised:
        with (
            work.app.run(show_progress=False),
            Chaos(runtime_dir, weights=WEIGHTS, pause=(0.2, 1.0), limits=LIMITS) as chaos,
        ):
            calls = spawn_under(chaos, kills=15, seconds=90)
        assert not supervised.errors
    check_settled_once(ray.home, {call.id for call in calls.values()})


def test_gangs_survive_whatever_is_killed_under_them(ray: OnRay, runtime_dir: Path) -> None:
    with (
        Supervised(ray.server),
        gang_work.app.run(show_progress=False),
        Chaos(runtime_dir, weights=WEIGHTS, pause=(0.3, 1.2), limits=LIMITS) as chaos,
    ):
        done = 0
        while chaos.total < 10:
            inputs = range(done, done + 10)
            assert list(gang_work.squares.map(inputs)) == [x * x for x in inputs]
            done += 10
        chaos.stop()
        assert gang_work.squares.remote(-3) == 9
    print(f"{done} calls, killed: {dict(chaos.killed)}")

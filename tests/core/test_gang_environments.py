from __future__ import annotations

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.gang_environments import SHOWN_MAX, disagreement
from stoker.types import GangSpec
from tests.core.world import World, spec

A = ["numpy==2.1.0", "pip==24.0", "python==3.11", "torch==2.13.0"]


def test_alike() -> None:
    assert disagreement(["n1", "n2"], [A, list(A)]) == ""
    assert disagreement(["n1", "n2"], [A, []]) == ""
    assert disagreement(["n1", "n2"], [[], A]) == ""
    assert disagreement(["n1", "n2"], [A, ["numpy==2.1.0", "python==3.11", "torch==2.13.0", "wheel==1"]]) == ""


def test_the_first_rank_that_differs_is_told_with_what_both_have() -> None:
    other = ["numpy==2.2.0", "python==3.12", "torch==2.13.0"]
    assert disagreement(["n1", "n1", "n2"], [A, A, other]) == (
        "rank 0 on node n1 has numpy 2.1.0, python 3.11, rank 2 on node n2 has numpy 2.2.0, python 3.12"
    )


def test_no_more_than_some_are_told() -> None:
    one, other = ([f"p{n}=={version}" for n in range(SHOWN_MAX + 3)] for version in (1, 2))
    assert disagreement(["n1", "n2"], [one, other]).endswith("p4 2 (and 3 more)")


def gather(world: World, installed: list[list[str]]) -> None:
    gathering = [w for w in world.workers.values() if w.gather is not None]
    for worker, lines in zip(gathering, installed, strict=True):
        assert worker.gather is not None
        (call_id, attempt), worker.gather = worker.gather, None
        world.step(e.RankGathered(worker.id, call_id, attempt, 40_000, lines))


def test_a_gang_whose_ranks_disagree_runs_nothing_and_is_replaced() -> None:
    world = World(cpus=2.0)
    key = world.declare(spec(cpu=0.5, gang=GangSpec(2, 2)))
    world.submit(["a"], key=key)
    world.connect_all()
    gather(world, [["numpy==1"], ["numpy==2"]])
    ((_, result),) = world.results["a"]
    assert result.error is not None and result.error.type_name == "StartupError"
    assert "disagree on their environment: rank 0 on node" in result.error.message
    assert "numpy 1" in result.error.message and "numpy 2" in result.error.message
    assert not [command for command in world.log if isinstance(command, c.LeaseRank)]
    assert all(worker.draining for worker in world.workers.values())
    for worker in list(world.workers):
        world.kill(worker, "exited")
    world.submit(["b"], key=key)
    world.connect_all()
    gather(world, [["numpy==2"], ["numpy==2"]])
    assert [w for w in world.workers.values() if "b" in w.leases]

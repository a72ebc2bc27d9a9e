"""A full queue: who floods it is refused, and who comes with a few calls is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.types import Outcome
from tests.core.world import World, spec

BOUND = 6


def full(**more: object) -> tuple[World, str]:
    """Return a world whose queue one client has filled."""
    world = World(cpus=1)
    key = world.declare(spec(max_pending=BOUND))
    world.submit([f"flood{i}" for i in range(BOUND)], key=key, client="flood", **more)
    while world.unwritten:
        world.write()
    assert not world.refused
    return world, key


def ended(world: World) -> dict[str, str]:
    """Return the errors of calls that were taken in and ended with one."""
    return {
        call_id: delivered[0][1].error.type_name
        for call_id, delivered in world.results.items()
        if delivered[0][1].error is not None
    }


def test_the_flooders_newest_call_makes_room() -> None:
    world, key = full()
    world.submit(["quiet"], key=key, client="quiet")
    assert not world.refused and ended(world) == {f"flood{BOUND - 1}": "Overloaded"}
    error = world.results[f"flood{BOUND - 1}"][0][1].error
    assert error is not None and error.fields["retry_after"] > 0 and "make room" in error.message
    world.submit(["flood-again"], key=key, client="flood")
    assert list(world.refused) == ["flood-again"]
    world.settle_everything()
    assert world.results["quiet"][0][1].outcome is Outcome.VALUE


def test_places_are_taken_only_until_both_have_as_many() -> None:
    world, key = full()
    world.submit([f"quiet{i}" for i in range(BOUND)], key=key, client="quiet")
    assert sorted(ended(world)) == ["flood3", "flood4", "flood5"]
    assert sorted(world.refused) == ["quiet3", "quiet4", "quiet5"]
    world.submit(["third"], key=key, client="third")
    assert "third" not in world.refused and len(ended(world)) == 4
    world.settle_everything()


def test_what_was_promised_stays_and_a_newcomer_gets_one_place_besides() -> None:
    world, key = full(detached=True)
    world.submit(["quiet1", "quiet2"], key=key, client="quiet")
    assert list(world.refused) == ["quiet2"] and not ended(world)
    world.submit(["quiet3"], key=key, client="quiet")
    assert list(world.refused) == ["quiet2", "quiet3"]
    world.settle_everything()


def test_maps_are_held_back_by_their_windows_and_lose_nothing() -> None:
    world, key = full(kind="map")
    world.submit(["quiet"], key=key, client="quiet")
    assert not world.refused and not ended(world)
    world.settle_everything()


def test_what_is_more_urgent_is_not_refused_for_what_is_less() -> None:
    world, key = full(priority=5)
    world.submit(["quiet"], key=key, client="quiet", priority=5)
    assert len(ended(world)) == 1
    world.submit(["other"], key=key, client="other", priority=0)
    assert len(ended(world)) == 1 and "other" not in world.refused
    world.settle_everything()


def test_a_deadline_is_judged_by_what_comes_before_and_not_by_what_others_have_queued() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    world.submit(["first"], key=key, client="flood")
    world.connect_all()
    world.finish_first()
    pool = world.plane.state.pools[key]
    pool.seconds = 1.0
    world.submit([f"flood{i}" for i in range(50)], key=key, client="flood")
    world.submit(["late"], key=key, client="flood", deadline=world.now + 10)
    assert world.refused["late"].type_name == "Overloaded"
    world.submit(["in-time"], key=key, client="quiet", deadline=world.now + 10)
    assert "in-time" not in world.refused
    world.submit(["too-tight"], key=key, client="third", deadline=world.now + 0.5)
    assert "too-tight" in world.refused


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 4)), max_size=40))
def test_nobody_with_less_than_a_share_is_refused_and_the_queue_keeps_its_bound(asked: list[tuple[str, int]]) -> None:
    world = World(cpus=1)
    key = world.declare(spec(max_pending=BOUND))
    queue = world.plane.state.pools[key].queue
    for number, (client, count) in enumerate(asked):
        before = {one: queue.waiting_of(one) for one in "abcd"}
        ids = [f"{client}{number}.{i}" for i in range(count)]
        world.submit(ids, key=key, client=client)
        refused = sum(1 for one in ids if one in world.refused)
        assert len(queue) <= BOUND
        assert queue.waiting_of(client) >= min(before[client] + count, BOUND // 4)
        if refused:
            assert all(queue.waiting_of(one) <= queue.waiting_of(client) + 1 for one in "abcd")
    world.settle_everything()

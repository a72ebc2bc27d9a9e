"""Calls that are taken in together are taken as each alone would be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.core import events as e
from tests.core.world import World, spec


def taken(world: World) -> dict[str, tuple[str, str]]:
    return {call.id: (call.state.name, call.trace) for call in world.plane.state.calls.values()}


@given(count=st.integers(1, 12), workers=st.integers(0, 3), pending=st.integers(1, 8))
def test_several_calls_of_one_event_are_as_one_each(count: int, workers: int, pending: int) -> None:
    ids = [f"c{n}" for n in range(count)]
    worlds = []
    for together in (True, False):
        world = World(cpus=4)
        key = world.declare(spec("f", max_workers=3, max_pending=pending, min_workers=workers))
        world.step(e.Tick())
        world.connect_all()
        events = [(ids, [f"t{n}" for n in range(count)])] if together else [([i], [f"t{i[1:]}"]) for i in ids]
        world.asked.extend(ids)
        asked = [e.Submitted("c1", key, some, [i.encode() for i in some], traces=traces) for some, traces in events]
        world.step(*asked)
        worlds.append(world)
    one, each = worlds
    assert one.refused.keys() == each.refused.keys()
    assert {i: t for i, (_, t) in taken(one).items()} == {i: t for i, (_, t) in taken(each).items()}
    for world in worlds:
        world.settle_everything()
    assert one.results.keys() == each.results.keys()


def test_what_is_known_already_does_not_shift_whose_trace_is_whose() -> None:
    world = World(cpus=1)
    key = world.declare(spec("f"))
    world.submit(["b"], key=key, trace="of b")
    world.step(e.Submitted("c1", key, ["a", "b", "c"], [b"a", b"b", b"c"], traces=["of a", "anew", "of c"]))
    assert {i: trace for i, (_, trace) in taken(world).items()} == {"a": "of a", "b": "of b", "c": "of c"}

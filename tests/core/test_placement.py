"""Where workers go: never more on a node than it has, and where they leave the least room over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.core.placement import EPSILON_CPUS, NOTHING, Capacity, Node, needs, place, why_never
from stoker.types import OptionsSpec

cpus = st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0])
memory = st.sampled_from([0, 1, 100, 1000])
capacities = st.builds(Capacity, cpus, memory)


def node(name: str, size: Capacity, free: Capacity | None = None) -> Node:
    return Node(name, size, free or size)


@st.composite
def clusters(draw: st.DrawFn) -> list[Node]:
    sizes = draw(st.lists(st.builds(Capacity, st.sampled_from([1.0, 2.0, 8.0]), st.sampled_from([100, 5000]))))
    return [node(f"n{i}", size) for i, size in enumerate(sizes)]


@given(clusters(), st.lists(capacities, max_size=40))
def test_nodes_are_never_over_committed(nodes: list[Node], wanted: list[Capacity]) -> None:
    for number, one in enumerate(wanted):
        chosen = place(nodes, one)
        if chosen is None:
            assert not any(one.fits(other.free()) for other in nodes), "it fitted somewhere"
            continue
        chosen.held[f"w{number}"] = one
        free = chosen.free()
        assert free.cpus >= -EPSILON_CPUS * len(chosen.held)
        assert free.memory >= 0


@given(clusters(), capacities)
def test_the_tightest_node_is_chosen_whatever_their_order(nodes: list[Node], wanted: Capacity) -> None:
    chosen = place(nodes, wanted)
    assert place(list(reversed(nodes)), wanted) is chosen
    if chosen is not None:
        left = chosen.free().cpus - wanted.cpus
        assert all(left <= other.free().cpus - wanted.cpus for other in nodes if wanted.fits(other.free()))


def test_what_other_programs_hold_is_not_ours_to_give() -> None:
    busy = node("n", Capacity(4.0, 1000), Capacity(0.5, 1000))
    assert place([busy], Capacity(1.0, 0)) is None
    assert place([busy], Capacity(0.5, 0)) is busy


def test_tenths_of_cores_add_up_to_whole_ones() -> None:
    one = node("n", Capacity(1.0, 0))
    for number in range(10):
        assert place([one], Capacity(0.1, 0)) is one
        one.held[str(number)] = Capacity(0.1, 0)
    assert place([one], Capacity(0.1, 0)) is None


def test_lent_cores_are_placed_again_and_memory_is_not() -> None:
    one = node("n", Capacity(2.0, 100))
    one.held["outer"] = Capacity(2.0, 60)
    assert place([one], Capacity(1.0, 0)) is None
    one.lent["outer"] = 2.0
    assert place([one], Capacity(1.0, 40)) is one
    assert place([one], Capacity(1.0, 41)) is None
    one.held["inner"] = Capacity(2.0, 0)
    del one.lent["outer"]
    assert one.free().cpus == -2.0
    assert place([one], Capacity(0.1, 0)) is None


@given(clusters(), capacities)
def test_a_reason_is_given_exactly_where_an_empty_cluster_would_not_do(nodes: list[Node], wanted: Capacity) -> None:
    assert bool(why_never(nodes, wanted)) is (bool(nodes) and place(nodes, wanted) is None)


def test_the_reason_names_what_would_fit() -> None:
    big_cpu, big_memory = node("a", Capacity(8.0, 1 << 30)), node("b", Capacity(2.0, 8 << 30))
    assert why_never([big_cpu, big_memory], Capacity(16.0, 0)) == "16 CPUs (the largest node has 8)"
    assert why_never([big_cpu], Capacity(1.0, 2 << 30)) == "2.0 GiB of memory (the largest node has 1.0 GiB)"
    both = why_never([big_cpu], Capacity(16.0, 2 << 30))
    assert both == "16 CPUs (the largest node has 8) and 2.0 GiB of memory (the largest node has 1.0 GiB)"
    together = why_never([big_cpu, big_memory], Capacity(4.0, 2 << 30))
    assert together == "4 CPUs together with 2.0 GiB on one node"
    assert why_never([], Capacity(99.0, 0)) == "", "nodes may still join"


def test_capacities_add_up() -> None:
    assert Capacity(1.0, 2) + Capacity(0.5, 1) - Capacity(1.5, 3) == NOTHING
    assert needs(OptionsSpec(cpu=0.5, memory=7)) == Capacity(0.5, 7)
    assert needs(OptionsSpec()) == Capacity(1.0, 0)

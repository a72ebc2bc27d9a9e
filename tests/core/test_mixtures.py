"""Classes that run some methods in batches and others call by call: what their calls take up of a worker."""

from __future__ import annotations

from dataclasses import replace

from stoker.core import commands as c
from stoker.core.calls import Call, Result
from stoker.core.mixtures import Mixture, mixture_of
from stoker.core.pools import Pool
from stoker.types import BatchSpec, MethodSpec, Outcome
from tests.core.world import World, spec

BATCH = BatchSpec(4, 0.005)
METHODS = {"quick": MethodSpec(batch=BATCH), "small": MethodSpec(batch=BatchSpec(2, 0.0)), "slow": MethodSpec()}
VALUE = Result(Outcome.VALUE, b"", None, 0.003)


def declared(world: World, **options: object) -> str:
    return world.declare(replace(spec("f", batch=BATCH, **options), methods=METHODS))


def held(world: World) -> list[list[str]]:
    return [list(worker.leases) for worker in world.workers.values()]


def calls(*methods: str) -> list[Call]:
    pool = Pool("p", replace(spec(batch=BATCH), methods=METHODS))
    return [Call(f"{method}{n}", pool, "c", b"", 0.0, method=method) for n, method in enumerate(methods)]


def begun(mixture: Mixture, *methods: str) -> list[int]:
    given = calls(*methods)
    return [given.index(call) for call in mixture.begun(given)]


def test_a_batch_is_begun_with_all_of_its_method_and_anything_else_alone() -> None:
    mixture = mixture_of(replace(spec(batch=BATCH), methods=METHODS))
    assert mixture is not None
    assert begun(mixture) == []
    assert begun(mixture, "slow", "quick", "slow") == [0]
    assert begun(mixture, "quick", "slow", "quick", "small", "quick", "quick", "quick") == [0, 2, 4, 5]
    assert begun(mixture, "small", "small", "small") == [0, 1]
    both = mixture_of(replace(spec(batch=BATCH, concurrency=2), methods=METHODS))
    assert both is not None
    assert begun(both, "slow", "quick", "slow", "quick") == [0, 1, 3]
    assert [mixture.of(calls(name)) for name in ("quick", "small", "slow", "")] == [1, 2, 4, 1]
    assert mixture.waiting({"quick": 3, "slow": 2, "small": 0}) == 11


def test_functions_and_classes_of_one_method_are_no_mixture() -> None:
    assert mixture_of(spec(batch=BATCH)) is None
    assert mixture_of(replace(spec(batch=BATCH), methods={"quick": METHODS["quick"]})) is None
    assert mixture_of(replace(spec(), methods={"slow": MethodSpec(), "other": MethodSpec()})) is None


def test_calls_that_run_alone_are_spread_over_the_workers_as_a_functions_are() -> None:
    world = World(cpus=4)
    key = declared(world, max_workers=4)
    world.submit(["a", "b", "c"], key=key, method="slow")
    assert len(world.workers) == 3
    world.connect_all()
    assert held(world) == [["a"], ["b"], ["c"]]


def test_a_quick_call_behind_a_slow_one_has_another_worker_started() -> None:
    world = World(cpus=2)
    key = declared(world, max_workers=2, min_workers=1)
    world.connect_all()
    for n in range(5):
        world.submit([f"q{n}"], key=key, method="quick")
        world.finish_first(VALUE)
    world.submit(["long"], key=key, method="slow")
    world.sleep(1.0)
    world.submit(["q"], key=key, method="quick")
    world.sleep(0.1)
    assert len(world.workers) == 2
    world.connect_all()
    world.sleep(0.1)
    first = next(iter(world.workers))
    assert list(world.workers[first].leases) == ["long", "q"]
    assert any(isinstance(x, c.RevokeLeases) and x.worker == first and x.ids == ["q"] for x in world.log)


def test_one_that_does_not_fit_is_the_next_and_is_not_passed_by() -> None:
    world = World(cpus=1)
    key = declared(world)
    world.submit([f"q{n}" for n in range(3)], key=key, method="quick")
    world.connect_all()
    world.submit(["s1", "s2", "s3"], key=key, method="slow")
    world.submit([f"r{n}" for n in range(3)], key=key, method="quick")
    assert held(world) == [["q0", "q1", "q2", "s1"]], "a batch that runs, and one call that waits beside it"
    queued = world.plane.state.calls
    assert [queued[name].attempt for name in ("s1", "s2", "s3")] == [1, 0, 0]
    for name in ("q0", "q1", "q2"):
        world.finish(next(iter(world.workers)), name, VALUE)
    assert held(world) == [["s1", "s2"]]
    world.settle_everything()
    assert len(world.results) == 9


def test_what_had_not_begun_when_its_worker_was_lost_does_not_count() -> None:
    world = World(cpus=1)
    key = declared(world, lost_retries=1)
    world.submit(["s1", "s2"], key=key, method="slow")
    world.connect_all()
    assert held(world) == [["s1", "s2"]]
    world.kill(next(iter(world.workers)))
    found = world.plane.state.calls
    assert [found[name].losses for name in ("s1", "s2")] == [1, 0]
    world.settle_everything()
    assert len(world.results) == 2


def test_what_waits_behind_a_slow_one_is_taken_back_for_a_worker_that_is_free() -> None:
    world = World(cpus=2)
    key = declared(world, min_workers=2, max_workers=2)
    world.connect_all()
    world.submit(["s1", "s2", "s3"], key=key, method="slow")
    first, second = world.workers.values()
    behind = first if len(first.leases) == 2 else second
    assert sorted(map(len, held(world))) == [1, 2]
    free = second if behind is first else first
    world.finish(free.id, next(iter(free.leases)), VALUE)
    world.sleep(0.1)
    assert any(isinstance(x, c.RevokeLeases) and x.worker == behind.id for x in world.log)


def test_of_calls_that_must_not_run_twice_a_worker_is_given_one_batch_at_a_time() -> None:
    world = World(cpus=1)
    key = world.declare(spec(batch=BATCH, lost_retries=0))
    world.submit([f"a{n}" for n in range(6)], key=key)
    world.connect_all()
    assert held(world) == [["a0", "a1", "a2", "a3"]], "so those that it holds are those that have begun"
    (worker,) = world.workers
    for n in range(4):
        world.finish(worker, f"a{n}", VALUE)
    assert held(world) == [["a4", "a5"]]


def test_of_a_mixture_too() -> None:
    world = World(cpus=1)
    key = declared(world, lost_retries=0)
    world.submit([f"q{n}" for n in range(6)], key=key, method="quick")
    world.submit(["s"], key=key, method="slow")
    world.connect_all()
    assert held(world) == [["q0", "q1", "q2", "q3"]]
    (worker,) = world.workers
    world.finish(worker, "q0", VALUE)
    assert held(world) == [["q1", "q2", "q3"]]
    world.settle_everything()
    assert len(world.results) == 7


def test_a_hung_call_is_not_forgotten_because_others_go_on_beside_it() -> None:
    world = World(cpus=2)
    key = declared(world, concurrency=2, timeout=5.0, max_workers=1)
    world.submit(["hung"], key=key, method="slow")
    world.connect_all()
    (worker,) = world.workers
    for n in range(40):
        world.submit([f"q{n}"], key=key, method="quick")
        world.sleep(0.5)
        if f"q{n}" in world.workers[worker].leases:
            world.finish(worker, f"q{n}", VALUE)
    assert world.workers[worker].draining or world.workers[worker].stopped


def test_one_that_waited_for_a_place_has_its_time_from_when_it_has_one() -> None:
    world = World(cpus=1)
    methods = {name: MethodSpec(batch=BATCH) for name in ("a", "b", "c")}
    key = world.declare(
        replace(spec("f", batch=BATCH, concurrency=2, timeout=5.0, max_workers=1, min_workers=1), methods=methods)
    )
    world.connect_all()
    for method in methods:
        world.submit([method + "1"], key=key, method=method)
    (worker,) = world.workers
    assert held(world) == [["a1", "b1", "c1"]], "the third method waits for a place"
    world.sleep(4.5)
    world.finish(worker, "a1", VALUE)
    world.finish(worker, "b1", VALUE)
    world.sleep(9.0)
    assert not world.workers[worker].draining and not world.workers[worker].stopped
    world.finish(worker, "c1", VALUE)
    assert len(world.results) == 3


def test_of_calls_that_must_not_run_again_none_waits_behind_another_method() -> None:
    world = World(cpus=1)
    key = declared(world, lost_retries=0)
    world.submit(["q0", "q1"], key=key, method="quick")
    world.submit(["s0"], key=key, method="small")
    world.connect_all()
    assert held(world) == [["q0", "q1"]]
    world.settle_everything()
    assert len(world.results) == 3


def test_calls_of_small_batches_fill_the_workers() -> None:
    world = World(cpus=2)
    sizes = {"a": MethodSpec(batch=BatchSpec(4, 0.0)), "b": MethodSpec(batch=BatchSpec(16, 0.0))}
    key = world.declare(replace(spec("f", batch=BatchSpec(16, 0.0), min_workers=2, max_workers=2), methods=sizes))
    world.connect_all()
    world.submit([f"a{n}" for n in range(8)], key=key, method="a")
    assert sorted(map(len, held(world))) == [4, 4]

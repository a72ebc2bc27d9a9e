"""The work on a Ray cluster that is there: tasks and actors as they come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.sides.shared_array import array, crossed, total
from bench.sides.timing import percentiles, rate
from bench.sides.with_numpy import pid_here

WARM_CALLS = 200
FREE_SECONDS = 60.0


@ray.remote
def nothing(x: int = 0) -> int:
    return x


@ray.remote
class Actor:
    def nothing(self, x: int = 0) -> int:
        return x

    def arrives(self) -> int:
        return pid_here()


@ray.remote
def make(megabytes: int) -> Any:
    return array(megabytes)


@ray.remote(num_cpus=2)
def use(made: Any) -> float:
    return total(made)


@contextmanager
def connected() -> Iterator[None]:
    ray.init(address=os.environ["RAY_ADDRESS"], logging_level="error", log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def round_trip() -> Iterator[Callable[..., Any]]:
    with connected():

        def turn(calls: int) -> dict[str, float]:
            wait_free()
            actor = Actor.options(num_cpus=1).remote()
            for _ in range(WARM_CALLS):
                ray.get(actor.nothing.remote())
            found = percentiles(lambda: ray.get(actor.nothing.remote()), calls)
            ray.kill(actor)
            return found

        yield turn


def map_throughput() -> Iterator[Callable[..., Any]]:
    with connected():

        def turn(calls: int) -> dict[str, float]:
            wait_free()
            ray.get([nothing.remote(x) for x in range(WARM_CALLS)])
            return rate(lambda: ray.get([nothing.remote(x) for x in range(calls)]), calls)

        yield turn


def scale() -> Iterator[Callable[..., Any]]:
    with connected():

        def turn(workers: int) -> dict[str, float]:
            wait_free()
            began = time.perf_counter()
            actors = [Actor.options(num_cpus=1).remote() for _ in range(workers)]
            pids = ray.get([actor.arrives.remote() for actor in actors])
            took = time.perf_counter() - began
            if len(set(pids)) != workers:
                raise AssertionError(f"{len(set(pids))} actors instead of {workers}")
            for actor in actors:
                ray.kill(actor)
            return {"s": took}

        yield turn


def shared() -> Iterator[Callable[..., Any]]:
    with connected():
        small, large = sorted(ray.nodes(), key=lambda node: node["Resources"]["CPU"])

        def turn(megabytes: int, calls: int) -> dict[str, float]:
            wait_free()
            there = make.options(scheduling_strategy=_on(small)).remote(megabytes)
            ray.wait([there], fetch_local=False)
            users = use.options(scheduling_strategy=_on(large))
            ray.get([users.remote(array(1)) for _ in range(2)])  # the workers there are up
            return crossed(lambda: ray.get([users.remote(there) for _ in range(calls)]), megabytes, calls)

        yield turn


def wait_free() -> None:
    """Return when the other side has left the cluster's cores."""
    give_up = time.monotonic() + FREE_SECONDS
    while ray.available_resources().get("CPU", 0.0) < ray.cluster_resources()["CPU"]:
        if time.monotonic() > give_up:
            raise AssertionError(f"the cores did not become free: {ray.available_resources()}")
        time.sleep(0.05)


def _on(node: dict[str, Any]) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)

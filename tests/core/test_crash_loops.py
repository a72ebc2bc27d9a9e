from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core import commands as c
from stoker.core import crash_loops
from stoker.core import events as e
from stoker.core.crash_loops import BACKOFF_MAX_SECONDS, DEATHS_BACKOFF_MAX_SECONDS, STEADY_SECONDS
from stoker.server.gateway.problems import problem_of
from stoker.types import ErrorInfo, Outcome

from .world import World, spec

ERROR = ErrorInfo("StartupError", "app.f: its enter() hook load() raised OSError: no model\nTraceback …", "Traceback …")


def _kept() -> tuple[World, str]:
    world = World()
    return world, world.declare(spec(min_workers=1))


def _starts(world: World) -> list[c.StartWorker]:
    return [x for x in world.log if isinstance(x, c.StartWorker)]


def test_workers_that_end_after_they_were_ready_and_before_they_did_anything_back_off() -> None:
    world, _ = _kept()
    began = world.now
    while len(_starts(world)) < 12:
        for worker in list(world.workers):
            world.connect(worker)
            world.kill(worker)
        world.sleep(0.5)
    assert world.now - began > 60.0


def test_the_pause_has_a_bound() -> None:
    world, key = _kept()
    pool = world.plane.state.pools[key]
    for _ in range(2000):
        crash_loops.failed(world.plane.state, pool, "it ended")
    assert crash_loops.pause(pool, world.now) == BACKOFF_MAX_SECONDS


def test_people_are_told_until_something_has_run() -> None:
    world, key = _kept()
    pool = world.plane.state.pools[key]
    assert crash_loops.told(pool, world.now) == ""
    for _ in range(2):
        world.step(e.WorkerRefused(next(iter(world.plane.state.workers)), ERROR))
        world.workers.clear()
    told = crash_loops.told(pool, world.now)
    assert told.startswith("its last 2 workers did not start or stay, the next one in 0.2 s: its enter() hook")
    assert "Traceback" not in told
    world.sleep(1.0)
    assert "another one starts" in crash_loops.told(pool, world.now)
    world.connect_all()
    assert "another one has just started" in crash_loops.told(pool, world.now)
    world.submit(["a"], key=key)
    world.finish_first()
    assert crash_loops.told(pool, world.now) == ""


def test_a_worker_that_stays_is_good_news_too() -> None:
    world, key = _kept()
    (worker,) = world.workers
    world.step(e.WorkerRefused(worker, ERROR))
    del world.workers[worker]
    world.connect_all()
    assert crash_loops.told(world.plane.state.pools[key], world.now)
    world.sleep(STEADY_SECONDS + 1.0)
    assert crash_loops.told(world.plane.state.pools[key], world.now) == ""


def test_a_request_is_refused_while_nothing_could_run_it() -> None:
    world, key = _kept()
    state = world.plane.state
    assert crash_loops.refusal(state, key, now=world.now) is None
    for expected in (False, True):
        world.step(e.WorkerRefused(next(iter(state.workers)), ERROR))
        world.workers.clear()
        assert (crash_loops.refusal(state, key, now=world.now) is not None) == expected
    refusal = crash_loops.refusal(state, key, now=world.now)
    assert refusal is not None and 0 < refusal.fields["retry_after"] <= 0.25
    assert crash_loops.refusal(state, key, now=world.now + 1.0) is None, "the next one is tried with it"


def test_calls_that_fail_with_a_start_are_told_when_the_next_is_tried() -> None:
    world = World()
    key = world.declare(spec())
    for i in range(4):
        world.submit([f"a{i}"], key=key)
        world.sleep(BACKOFF_MAX_SECONDS)
        world.step(e.WorkerRefused(next(iter(world.plane.state.workers)), ERROR))
        world.workers.clear()
    waits = [world.results[f"a{i}"][0][1].error.fields["retry_after"] for i in range(4)]  # type: ignore[union-attr]
    assert waits == [0.0, 0.25, 0.5, 1.0]


def _run(world: World, deadly: set[str], *, until: float) -> None:
    """Let workers run what they are given, each call for no time at all; those named end the worker they run in."""
    while world.now < until:
        world.connect_all()
        busy = [worker for worker in world.workers.values() if worker.leases]
        for worker in busy:
            if worker.id not in world.workers:
                continue
            first = next(iter(worker.leases))
            if first in deadly:
                world.kill(worker.id)
            else:
                world.finish(worker.id, first)
        if not busy:
            world.sleep(0.05)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 4]), st.integers(1, 4), st.sampled_from([0, 2, 1000]))
def test_workers_that_only_ever_end_in_their_calls_are_started_less_and_less_often(
    concurrency: int, max_workers: int, lost_retries: int
) -> None:
    world = World(cpus=4.0)
    key = world.declare(
        spec(concurrency=concurrency, max_workers=max_workers, lost_retries=lost_retries, idle_timeout=1e6)
    )
    began, calls = world.now, [f"a{i}" for i in range(200)]
    world.submit(calls, key=key)
    _run(world, set(calls), until=began + 100.0)
    doubling = 6 + max_workers  # until the bound is reached, and what had been started before the first one ended
    retried = 1 + min(lost_retries, 2)  # what one call does is counted once
    assert len(_starts(world)) <= (doubling + 100.0 / DEATHS_BACKOFF_MAX_SECONDS) * retried


def test_a_call_that_may_be_run_for_ever_waits_longer_each_time() -> None:
    world = World()
    key = world.declare(spec(lost_retries=10_000))
    world.submit(["deadly"], key=key)
    _run(world, {"deadly"}, until=world.now + 100.0)
    assert len(_starts(world)) < 8 + 100.0 / BACKOFF_MAX_SECONDS
    assert crash_loops.told(world.plane.state.pools[key], world.now) == "", "that is one call, not the function"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 3), st.sampled_from([0, 2]))
def test_good_calls_are_run_whatever_deadly_ones_are_among_them(
    kinds: list[bool], max_workers: int, lost_retries: int
) -> None:
    world = World()
    key = world.declare(spec(lost_retries=lost_retries, max_workers=max_workers))
    calls = [f"a{i}" for i in range(len(kinds))]
    deadly = {call for call, is_deadly in zip(calls, kinds, strict=True) if is_deadly}
    world.submit(calls, key=key)
    _run(world, deadly, until=world.now + 40.0 * (1 + len(deadly)))
    ended = {call: deliveries[0][1].outcome for call, deliveries in world.results.items()}
    assert ended == {call: Outcome.ERROR if call in deadly else Outcome.VALUE for call in calls}


def test_one_deadly_call_stops_nothing() -> None:
    world = World()
    key = world.declare(spec(max_workers=1))
    began = world.now
    world.submit(["deadly", *(f"a{i}" for i in range(20))], key=key)
    state = world.plane.state
    while len(world.results) < 21:
        assert crash_loops.refusal(state, key, now=world.now) is None
        _run(world, {"deadly"}, until=world.now + 0.05)
    assert world.now - began < 1.0, "no other call has waited for more than new workers"
    assert len(_starts(world)) == 3


def test_people_are_told_of_calls_that_end_their_workers_until_one_has_run() -> None:
    world = World()
    key = world.declare(spec(lost_retries=0, max_workers=1))
    state, pool = world.plane.state, world.plane.state.pools[key]
    for name in "abcde":
        assert crash_loops.refusal(state, key, now=world.now) is None, "so short a pause is waited"
        world.submit([name], key=key)
        while name not in world.results:
            _run(world, {name}, until=world.now + 0.05)
    told = crash_loops.told(pool, world.now)
    assert told.startswith("its last 5 workers ended in their calls, the next one in 2.0 s: killed by signal 9")
    refusal = crash_loops.refusal(state, key, now=world.now)
    assert refusal is not None and "ended in their calls" in refusal.message
    world.sleep(2.0)
    assert crash_loops.refusal(state, key, now=world.now) is None
    world.submit(["good"], key=key)
    assert "another one starts" in crash_loops.told(pool, world.now)
    assert crash_loops.refusal(state, key, now=world.now) is None, "one that starts can run it"
    _run(world, set(), until=world.now + 0.05)
    assert crash_loops.told(pool, world.now) == ""


def test_workers_that_were_told_to_end_are_no_crash_loop() -> None:
    world = World()
    key = world.declare(spec(lost_retries=1000, max_workers=1))
    world.submit(["a"], key=key)
    for _ in range(5):
        world.connect_all()
        (worker,) = world.workers
        world.kill(worker, cause="unknown")  # with its agent
    assert crash_loops.pause(world.plane.state.pools[key], world.now) == 0.0


@pytest.mark.parametrize(
    ("why", "told"),
    [
        (
            "app.f: its enter() hook load() raised OSError: no model",
            "its enter() hook load() raised OSError: no model",
        ),
        ("app.f could not be loaded: KeyError: 'x'\nTraceback …\n  File …", "could not be loaded: KeyError: 'x'"),
        (
            "app.f: its hook load() was not done within 5 s. It was here:\n  File …",
            "its hook load() was not done within 5 s.",
        ),
        (
            "app.f: It does not resolve; uv says:\n  error: No solution:\n    cause: no such package",
            "It does not resolve; uv says: error: No solution: · cause: no such package",
        ),
        (
            "app.f: There is no Python 3.14 here. There are:\n  3.11.7   /usr/bin/python3\n",
            "There is no Python 3.14 here. There are: 3.11.7 /usr/bin/python3",
        ),
    ],
)
def test_a_reason_in_short_has_the_cause(why: str, told: str) -> None:
    assert crash_loops.in_short(why, label="app.f") == told


def test_a_long_reason_is_cut_between_words() -> None:
    told = crash_loops.in_short("app.f: " + "word " * 1000, label="app.f")
    assert len(told) <= crash_loops.WORDS_MAX + 2 and told.endswith("word …")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("NotFound", "Files that it needs are not there any more: deploy it, or run its program, again."),
        ("StoreError", "Files that it needs could not be read or written."),
        ("InvalidRequest", "That failed with InvalidRequest."),
    ],
)
def test_what_a_start_has_come_across_is_no_error_of_who_calls(kind: str, told: str) -> None:
    world = World()
    key, found = world.declare(spec()), ErrorInfo(kind, "There is no blob bundle/1 in /home/me/blobs.")
    for i in range(2):
        world.submit([f"a{i}"], key=key)
        world.sleep(1.0)
        world.step(e.WorkerRefused(next(iter(world.plane.state.workers)), found))
        world.workers.clear()
        error = world.results[f"a{i}"][0][1].error
        assert error is not None and error.type_name == "StartupError"
        assert error.message == f"app.f could not be started. {told} The details:\n{found.message}"
    refusal = crash_loops.refusal(world.plane.state, key, now=world.now)
    assert refusal is not None and refusal.type_name == "StartupError" and told in refusal.message
    for one in (error, refusal):
        problem = problem_of(Outcome.ERROR, one)
        assert problem.status == 503 and "retry-after" in problem.headers and "/home/me" not in str(problem)


def test_who_is_refused_is_told_what_kind_of_failure_it_is() -> None:
    world, key = _kept()
    for _ in range(2):
        refused = ErrorInfo("ImageBuildError", "app.f: no such package")
        world.step(e.WorkerRefused(next(iter(world.plane.state.workers)), refused))
        world.workers.clear()
    refusal = crash_loops.refusal(world.plane.state, key, now=world.now)
    assert refusal is not None and refusal.type_name == "ImageBuildError" and refusal.fields["function"] == "app.f"


def test_who_is_refused_is_not_told_what_a_worker_has_printed_and_the_owner_is() -> None:
    world, key = _kept()
    said = "app.f: its process ended while it loaded (exit status 3). Its output until then:\na secret\nof two lines"
    for _ in range(2):
        world.step(e.WorkerRefused(next(iter(world.plane.state.workers)), ErrorInfo("StartupError", said)))
        world.workers.clear()
    pool = world.plane.state.pools[key]
    refused = crash_loops.refusal(world.plane.state, key, now=world.now)
    assert refused is not None and refused.message.endswith("its process ended while it loaded (exit status 3).")
    assert crash_loops.told(pool, world.now).endswith("Its output until then: a secret · of two lines")

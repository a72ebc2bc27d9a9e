"""Workers that are lent to one client: when, until when, and what becomes of calls that were not answered in time."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import Result
from stoker.core.channels import UNUSED_SECONDS
from stoker.types import ErrorInfo, Outcome, RetrySpec
from tests.core.world import FakeChannel, World, spec

QUICK = Result(Outcome.VALUE, b"v", None, 0.0001)


def lent(**options: Any) -> tuple[World, str, FakeChannel]:
    """A world in which client c1 has a channel to the only worker."""
    world = World(cpus=1)
    key = world.declare(spec(**options))
    warm(world, key)
    world.step(e.ChannelAsked("c1", key))
    (channel,) = world.channels.values()
    world.open_channel(channel)
    assert channel.opened
    return world, key, channel


def warm(world: World, key: str) -> None:
    world.submit(["warm"], key=key)
    world.connect_all()
    world.finish_first(QUICK)


def refused(world: World, key: str) -> bool:
    commands = world.step(e.ChannelAsked("c1", key))
    return commands == [c.TellChannel("c1", key)]


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 2},
        {"retries": RetrySpec(max_retries=1)},
        {"lost_retries": 0},
        {"recycle_after": 10},
        {"deadline": 5.0},
    ],
    ids=lambda options: str(next(iter(options))),
)
def test_what_the_server_must_decide_about_each_call_is_not_lent(options: dict[str, Any]) -> None:
    world = World(cpus=1)
    key = world.declare(spec(**options))
    warm(world, key)
    assert refused(world, key)


def test_a_pool_of_long_calls_or_without_a_sample_is_not_lent() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    assert refused(world, key)
    world.submit(["a"], key=key)
    world.connect_all()
    world.finish_first(Result(Outcome.VALUE, b"", None, 0.5))
    assert refused(world, key)


def test_nothing_is_lent_while_anybody_waits() -> None:
    world = World(cpus=1)
    key, other = world.declare(spec()), world.declare(spec("g"))
    warm(world, key)
    world.submit(["x"], key=other)
    assert refused(world, key)


def test_a_lent_worker_is_leased_nothing_and_comes_back_for_a_call_of_somebody_else() -> None:
    world, key, channel = lent()
    world.submit(["x"], key=key, client="c2")
    assert channel.closed
    assert not world.workers[channel.worker].leases
    world.say_closed(channel)
    assert list(world.workers[channel.worker].leases) == ["x"]


def test_a_lent_worker_comes_back_for_another_function_that_needs_its_place() -> None:
    world, _, channel = lent()
    other = world.declare(spec("g"))
    world.submit(["x"], key=other, client="c2")
    assert channel.closed
    world.settle_everything()
    assert world.results["x"]


def test_what_is_not_used_is_taken_back() -> None:
    world, _, channel = lent()
    world.sleep(UNUSED_SECONDS / 2)
    world.step(e.ChannelUsed(channel.worker, channel.id, [0], [0.0001]))
    world.sleep(UNUSED_SECONDS * 0.75)
    assert not channel.closed
    world.sleep(UNUSED_SECONDS)
    assert channel.closed


def test_calls_on_a_channel_are_counted_and_end_it_when_they_are_long() -> None:
    world, key, channel = lent()
    pool = world.plane.state.pools[key]
    done = pool.done
    world.step(e.ChannelUsed(channel.worker, channel.id, [0, 0, 1], [0.0001] * 3))
    assert (pool.done - done, pool.failed) == (2, 1)
    world.step(e.ChannelUsed(channel.worker, channel.id, [0], [1.0]))
    assert channel.closed


def test_a_call_that_runs_on_becomes_an_ordinary_lease() -> None:
    world, _, channel = lent()
    channel.sent, channel.reads = "c1.x", True
    world.hand_over(channel)
    assert channel.closed
    world.say_closed(channel)
    call = world.plane.state.calls["c1.x"]
    assert call.worker is not None
    assert call.attempt == 1
    world.finish(channel.worker, "c1.x")
    assert world.results["c1.x"]


def test_a_call_that_ran_on_and_is_asked_for_later_is_found() -> None:
    world, _, channel = lent()
    channel.sent, channel.reads = "c1.x", True
    world.step(e.ChannelClosed(channel.worker, channel.id, ["c1.x"], [1]))
    world.workers[channel.worker].leases["c1.x"] = 1
    world.finish(channel.worker, "c1.x")
    world.hand_over(channel)
    assert world.results["c1.x"]
    assert not world.workers[channel.worker].leases


def test_a_call_that_was_never_read_is_queued_and_counts_as_nothing() -> None:
    world, _, channel = lent()
    channel.sent = "c1.x"
    world.hand_over(channel)
    world.say_closed(channel)
    call = world.plane.state.calls["c1.x"]
    assert (call.attempt, call.losses) == (1, 0)
    assert world.workers[channel.worker].leases == {"c1.x": 1}


def test_a_call_that_was_answered_meanwhile_is_forgotten() -> None:
    for early in (True, False):
        world, _, channel = lent()
        channel.sent = "c1.x"
        channel.answered = "c1.x"
        if early:
            world.hand_over(channel)
        world.step(e.ChannelClosed(channel.worker, channel.id, [], [], "c1.x"))
        if not early:
            world.hand_over(channel)
        assert not world.plane.state.calls
        assert "c1.x" not in world.results
        assert not world.plane.state.by_client


@pytest.mark.parametrize("first", ["kill", "hand over"])
def test_a_worker_that_dies_under_a_call_has_lost_it(first: str) -> None:
    world, _, channel = lent()
    channel.sent, channel.reads = "c1.x", True
    if first == "hand over":
        world.hand_over(channel)
    world.kill(channel.worker)
    assert world.plane.state.calls["c1.x"].losses == 1
    world.settle_everything()
    assert world.results["c1.x"]


def test_memory_that_ran_out_is_said() -> None:
    world, _, channel = lent()
    channel.sent, channel.reads = "c1.x", True
    world.hand_over(channel)
    world.kill(channel.worker, cause="memory")
    ((_, result),) = world.results["c1.x"]
    assert isinstance(result.error, ErrorInfo)
    assert result.error.type_name == "OutOfMemory"


def test_a_cancel_reaches_a_call_that_runs_on() -> None:
    world, _, channel = lent()
    channel.sent, channel.reads = "c1.x", True
    world.hand_over(channel)
    world.step(e.CancelAsked(["c1.x"]))
    world.say_closed(channel)
    assert world.workers[channel.worker].cancelled == {"c1.x"}
    world.sleep(world.plane.state.limits.cancel_grace + 1)
    assert world.workers[channel.worker].stopped  # it did not listen


def test_what_a_client_runs_that_has_gone_is_cancelled() -> None:
    world, _, channel = lent()
    channel.sent, channel.reads, channel.handed = "c1.x", True, True
    world.step(e.ClientLeft("c1", final=True))
    assert channel.closed
    world.say_closed(channel)
    assert world.workers[channel.worker].cancelled == {"c1.x"}


def test_a_worker_that_never_lets_go_of_a_call_without_a_client_is_stopped() -> None:
    world, _, channel = lent()
    world.step(e.ClientLeft("c1", final=True))
    world.sleep(world.plane.state.limits.cancel_grace + 1)
    assert world.workers[channel.worker].stopped


def test_a_channel_ends_with_the_connection_of_its_worker() -> None:
    world, _, channel = lent()
    channel.sent, channel.reads = "c1.x", True
    worker = world.workers[channel.worker]
    worker.connected = False
    world.step(e.WorkerDisconnected(channel.worker))
    world.connect(channel.worker)
    assert world.plane.state.workers[channel.worker].channel is None
    world.finish(channel.worker, "c1.x")
    assert world.results["c1.x"]


def test_closed_channels_are_forgotten_after_the_grace() -> None:
    world, _, channel = lent()
    world.say_closed(channel)
    assert world.plane.state.channels
    world.sleep(world.plane.state.limits.client_grace + 1)
    assert not world.plane.state.channels


def test_a_call_on_a_stuck_worker_is_timed_out() -> None:
    world, _, channel = lent(timeout=5.0)
    channel.sent, channel.reads = "c1.x", True
    world.hand_over(channel)
    world.sleep(5.0 + world.plane.state.limits.timeout_grace + 1.0)
    assert world.workers[channel.worker].stopped
    world.kill(channel.worker, cause="stopped")
    ((_, result),) = world.results["c1.x"]
    assert result.outcome is Outcome.TIMEOUT


def test_a_cancelled_call_on_a_stuck_worker_ends_it() -> None:
    world, _, channel = lent()
    channel.sent, channel.reads = "c1.x", True
    world.hand_over(channel)
    world.step(e.CancelAsked(["c1.x"]))
    world.sleep(world.plane.state.limits.cancel_grace + 1)
    assert world.workers[channel.worker].stopped


def test_a_call_that_runs_on_is_cancelled_when_its_client_goes_without_asking_for_it() -> None:
    world, _, channel = lent()
    channel.sent, channel.reads, channel.handed = "c1.x", True, True
    world.say_closed(channel)
    world.step(e.ClientLeft("c1", final=True))
    assert world.workers[channel.worker].cancelled == {"c1.x"}


def test_a_channel_is_its_own_clients_only() -> None:
    world, key, channel = lent()
    world.step(e.Submitted("c2", key, ["c2.x"], [b""], channel=channel.id))
    assert world.plane.state.calls["c2.x"].queued
    world.submit(["c2.y"], key=key, client="c2")
    world.step(e.ChannelClosed(channel.worker, channel.id, ["c2.y"], [1]))
    assert "c2.y" not in world.plane.state.workers[channel.worker].unknown


def test_what_is_sent_down_no_channel_is_admitted_like_any_other() -> None:
    world = World(cpus=1)
    key = world.declare(spec(max_pending=10))
    world.submit([f"c1.{i}" for i in range(50)], key=key, channel="bogus")
    assert len(world.refused) >= 35


def test_a_worker_that_opens_too_late_is_told_to_close() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    warm(world, key)
    world.step(e.ChannelAsked("c1", key))
    (channel,) = world.channels.values()
    world.step(e.WorkerDisconnected(channel.worker))
    world.connect(channel.worker)
    commands = world.step(e.ChannelOpened(channel.worker, channel.id, "address", "key"))
    assert c.CloseChannel(channel.worker, channel.id) in commands


def test_who_asked_is_told_when_the_worker_cannot() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    warm(world, key)
    world.step(e.ChannelAsked("c1", key))
    (channel,) = world.channels.values()
    commands = world.step(e.ChannelClosed(channel.worker, channel.id, [], []))
    assert c.TellChannel("c1", key) in commands

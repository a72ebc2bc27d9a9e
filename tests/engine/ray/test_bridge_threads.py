"""Ray's blocking calls in threads: whoever gives up waiting still learns that they have ended."""

from __future__ import annotations

import asyncio
import threading

import pytest

from stoker.engine.ray.bridge.threads import in_thread


async def test_one_that_is_cancelled_twice_is_waited_for_all_the_same() -> None:
    """What it makes is undone by whoever waits; gone on alone, it would make it afterwards."""
    gate, done = threading.Event(), []

    def work() -> None:
        gate.wait()
        done.append(True)

    task = asyncio.create_task(in_thread(work))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done() and not done
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done

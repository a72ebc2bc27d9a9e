from __future__ import annotations

from stoker.engine.local.lease import BEAT_SECONDS, Lease
from stoker.protocol.messages import Beat


def test_a_lease_counts_from_when_the_beat_left_that_came_back() -> None:
    lease = Lease(now=100.0)
    beat = lease.due(now=100.0)
    assert beat is not None and lease.due(now=100.0 + BEAT_SECONDS / 2) is None
    lease.heard(Beat(beat.number, 10.0), now=107.0)  # a slow network: the server had it somewhere in between
    assert not lease.is_over(now=107.9)
    assert lease.is_over(now=108.1)


def test_an_echo_of_an_older_beat_shortens_nothing() -> None:
    lease = Lease(now=0.0)
    first, second = lease.due(now=0.0), lease.due(now=5.0)
    assert first is not None and second is not None
    lease.heard(Beat(second.number, 10.0), now=5.1)
    lease.heard(Beat(first.number, 10.0), now=5.2)
    assert not lease.is_over(now=12.9)
    assert lease.is_over(now=13.1)


def test_without_a_word_of_the_server_there_is_no_lease() -> None:
    assert not Lease(now=0.0).is_over(now=1e6)


def test_beats_without_an_echo_are_forgotten() -> None:
    lease = Lease(now=0.0)
    for number in range(500):
        lease.due(now=number * BEAT_SECONDS)
    assert len(lease._sent) <= 64

"""How the results of a batch go out, and which calls are of one batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stoker.runner.attempts import Attempt
from stoker.runner.batches import Batches, Group
from stoker.runner.callables import Target
from stoker.types import BatchSpec


def attempts(count: int) -> list[Attempt]:
    return [Attempt(f"c{n}", 1, memoryview(b""), None, 0) for n in range(count)]


class Worker:
    """What `Batches` needs of one; ``reported`` has the ids of each piece."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(batch=BatchSpec(max_size=64, max_wait=0.0), label="f")
        self.reports = SimpleNamespace(encode_result=lambda attempt, value: b"%d" % value)
        self.reported: list[list[str]] = []

    def finish_all(self, encoded: list[tuple[Attempt, Any]]) -> None:
        self.reported.append([attempt.id for attempt, _ in encoded])


@pytest.mark.parametrize("count", [1, 15, 16, 17, 32, 37])
def test_results_go_piece_by_piece_and_no_piece_is_empty(count: int) -> None:
    worker: Any = Worker()
    group = Group(Target(list), (0, ()))
    group.attempts = attempts(count)
    for _ in Batches(worker).ending(group, list(range(count)), every=16):
        pass
    assert [call for piece in worker.reported for call in piece] == [attempt.id for attempt in group.attempts]
    assert [len(piece) for piece in worker.reported] == [min(16, count - done) for done in range(0, count, 16)]


def test_who_sends_what_came_of_a_batch_has_a_turn_also_where_that_is_no_result() -> None:
    worker, ended = Worker(), []
    worker.reports.of_error = lambda attempt, error: error
    worker.finish = lambda attempt, report, flush: ended.append(attempt.id)  # type: ignore[attr-defined]
    group = Group(Target(list), (0, ()))
    group.attempts = attempts(2)
    turns = [list(ended) for _ in Batches(worker).ending(group, [1, 2, 3], every=16)]  # type: ignore[arg-type]
    assert turns[-1] == ["c0", "c1"]


def test_calls_of_one_shape_are_one_group_and_others_are_looked_at() -> None:
    spec = BatchSpec(max_size=8, max_wait=0.0)
    target, other = Target(max, batch=spec), Target(min, batch=spec)
    one, two, three = attempts(3)
    found = Group.of_all([(one, (target, (1,), {"x": 2, "y": 3})), (two, (target, (4,), {"y": 6, "x": 5}))])
    assert found is not None and found.attempts == [one, two]
    assert found.args == [[1, 4]] and found.kwargs == {"x": [2, 5], "y": [3, 6]}
    for different in [(other, (1,), {"x": 1, "y": 2}), (target, (), {"x": 1, "y": 2}), (target, (1,), {"x": 1})]:
        assert Group.of_all([(one, (target, (1,), {"x": 2, "y": 3})), (three, different)]) is None
    assert Group.of_all([]) is None
    assert Group.of_all([(one, (Target(max), (1,), {}))]) is None, "it is not batched"

from __future__ import annotations

from stoker.types import Outcome
from tests.runner.harness import Stage


def test_core_of_a_worker(every_python: Stage) -> None:
    worker = every_python.worker(
        """
        def f(x):
            print("got", x)
            if x < 0:
                raise ValueError(f"negative: {x}")
            return x + 1
        """
    )
    assert worker.hello.token == "secret"
    assert worker.held.fresh
    worker.calls([(f"c-{i}", (i,)) for i in range(-1, 200)])
    failed = worker.result("c--1")
    assert failed.outcome is Outcome.ERROR
    assert failed.error is not None
    assert failed.error.type_name == "builtins.ValueError"
    assert "jobs.py" in failed.error.traceback
    assert "stoker/runner" not in failed.error.traceback
    assert [worker.result(f"c-{i}").value for i in range(200)] == list(range(1, 201))
    assert ("c-7", "o", "got 7") in every_python.records()

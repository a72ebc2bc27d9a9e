from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from stoker.core.pools import Pool
from stoker.server.version_rows import FAILED_STARTS, why_unready
from stoker.store.base import Deployment

from .harness import spec


def unready(*pools: Pool, created: float = 200.0, done: int = 0) -> dict[str, str]:
    """Return what is said of version 2, of which earlier pools have run so many calls, to a server started at 100."""
    state = SimpleNamespace(pools={pool.key: pool for pool in pools}, ran={("app", 2): (done, 0)})
    server: Any = SimpleNamespace(plane=SimpleNamespace(state=state), now=lambda: 0.0, started=100.0)
    return why_unready(server, Deployment("app", 2, created, current=True, functions=()))


def a_pool(name: str = "f", **fields: Any) -> Pool:
    made = replace(spec(name, run_id=""), version=2, parameters=fields.pop("parameters", {}))
    return Pool(made.key, made, **fields)


def test_a_function_that_nobody_has_asked_for_is_not_held_against_its_version() -> None:
    assert not unready(a_pool(), a_pool("g", bad_starts=FAILED_STARTS - 1))


def test_one_that_waits_or_does_not_start_was_never_ready() -> None:
    assert unready(a_pool(awaits="before")) == {"f": "it is still starting"}
    assert [*unready(a_pool(bad_starts=FAILED_STARTS, trouble="no weights"))] == ["f"]


def test_one_that_has_run_and_does_no_more_was_ready() -> None:
    assert not unready(a_pool(bad_starts=FAILED_STARTS, start_seconds=1.0))
    assert not unready(a_pool(bad_starts=FAILED_STARTS, done=1))


def test_parameters_that_do_not_work_are_not_the_versions_fault() -> None:
    bad = a_pool(bad_starts=FAILED_STARTS, parameters={"size": "none"})
    assert unready(bad)
    assert not unready(a_pool(start_seconds=1.0), bad)


def test_a_version_of_which_one_function_was_ready_was_ready() -> None:
    assert not unready(a_pool(start_seconds=1.0), a_pool("g", bad_starts=FAILED_STARTS))
    assert not unready(a_pool(bad_starts=FAILED_STARTS), done=3)


def test_of_a_version_from_before_the_server_started_nobody_knows_unless_it_still_waits() -> None:
    assert not unready(a_pool(bad_starts=FAILED_STARTS), created=50.0)
    assert unready(a_pool(awaits="before"), created=50.0)

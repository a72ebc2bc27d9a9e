"""Functions that take batches, as their callers and authors see them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stoker
from tests.waiting import wait_until

app = stoker.App("batches")
BATCH = stoker.Batch(max_size=8, max_wait="20ms")


@app.function(batch=BATCH, max_workers=1)
def times(xs: list[int], by: list[int]) -> list[int]:
    return [x * factor for x, factor in zip(xs, by, strict=True)]


@app.function(batch=BATCH, max_workers=1)
def doubled(xs: list[int]) -> list[int | Exception]:
    return [ValueError(f"no {x}") if x < 0 else 2 * x for x in xs]


@app.function(batch=BATCH, max_workers=1)
def sizes(xs: list[int]) -> list[int]:
    time.sleep(0.02)
    return [len(xs)] * len(xs)


@app.function(batch=BATCH, max_workers=1, concurrency=2)
def in_threads(xs: list[int]) -> list[tuple[int, int]]:
    time.sleep(0.02)
    return [(len(xs), threading.get_ident())] * len(xs)


@app.function(batch=BATCH, max_workers=1)
async def in_tasks(xs: list[int]) -> Any:
    await asyncio.sleep(0.02)
    return np.full(len(xs), len(xs))


@app.function(batch=BATCH, max_workers=1)
def wrong(xs: list[str]) -> Any:
    return {"few": xs[1:], "text": "abc", "none": None}[xs[0]]


@app.function(batch=BATCH, max_workers=1)
def raises(xs: list[int]) -> list[int]:
    raise KeyError(f"all {len(xs)}")


@app.function(batch=BATCH, max_workers=1, timeout=0.5)
def too_long(xs: list[int]) -> list[int]:
    time.sleep(30)
    return xs


@app.function(batch=BATCH, max_workers=1)
def held(paths: list[str]) -> list[str]:
    Path(paths[0]).touch()
    end = time.monotonic() + 30
    while not Path(paths[0] + ".go").exists() and time.monotonic() < end:
        time.sleep(0.01)
    return paths


@app.function(batch=BATCH, max_workers=1)
def dies_once(paths: list[str]) -> list[str]:
    try:
        os.close(os.open(paths[0], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return ["again"] * len(paths)
    os.kill(os.getpid(), 9)
    return paths


@app.cls(max_workers=2, cpu=0.5)
class Mixed:
    @stoker.method(batch=BATCH)
    def quick(self, xs: list[int]) -> list[int]:
        return xs

    @stoker.method()
    def meets(self, directory: str, name: str) -> int:
        """Return the pid once two of these have begun."""
        (Path(directory) / name).touch()
        end = time.monotonic() + 40
        while len(list(Path(directory).iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        return os.getpid()


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[None]:
    with app.run(show_progress=False):
        yield


def test_each_call_gives_one_input_and_has_one_result() -> None:
    assert doubled.remote(4) == 8
    assert times.remote(4, 5) == 20
    assert list(doubled.map(range(100))) == [2 * x for x in range(100)]
    assert doubled.spawn(3).result() == 6


def test_calls_of_all_callers_run_together() -> None:
    found = list(sizes.map(range(200)))
    assert max(found) == 8 and sum(found) / len(found) > 6


def test_in_threads_and_in_tasks_as_well() -> None:
    found = list(in_threads.map(range(200)))
    assert max(size for size, _ in found) == 8 and len({thread for _, thread in found}) == 2
    assert max(in_tasks.map(range(100))) == 8


def test_an_exception_in_the_place_of_a_result_is_of_that_call_alone() -> None:
    found = list(doubled.map([1, -2, 3], return_exceptions=True))
    assert [found[0], found[2]] == [2, 6] and isinstance(found[1], ValueError) and str(found[1]) == "no -2"


def test_what_a_batch_raises_all_its_calls_raise() -> None:
    found = list(raises.map(range(3), return_exceptions=True))
    assert all(isinstance(error, KeyError) for error in found)


@pytest.mark.parametrize(
    ("what", "said"), [("few", "It was given 1 and returned 0"), ("text", "returned a str"), ("none", "NoneType")]
)
def test_what_is_no_list_of_results_is_said(what: str, said: str) -> None:
    with pytest.raises(stoker.errors.CallError, match=f"one result for each of its inputs.*{said}"):
        wrong.remote(what)


def test_a_batch_that_runs_too_long_times_out_for_all() -> None:
    found = list(too_long.map(range(3), return_exceptions=True))
    assert all(isinstance(error, stoker.CallTimeout) for error in found)


def test_one_that_is_cancelled_leaves_the_others_alone(tmp_path: Path) -> None:
    paths = [str(tmp_path / "held")] * 3
    calls = [held.spawn(path) for path in paths]
    wait_until(Path(paths[0]).exists, message="the batch runs")
    calls[1].cancel()
    Path(paths[0] + ".go").touch()
    assert [calls[0].result(timeout=30), calls[2].result(timeout=30)] == [paths[0]] * 2
    with pytest.raises(stoker.CallCancelled):
        calls[1].result(timeout=30)


def test_a_worker_that_dies_under_a_batch_has_it_run_again(tmp_path: Path) -> None:
    assert list(dies_once.map([str(tmp_path / "died")] * 5)) == ["again"] * 5


def test_what_is_no_batch_is_refused() -> None:
    with pytest.raises(stoker.InvalidOption, match="from 1 to"):
        stoker.Batch(max_size=0)
    with pytest.raises(stoker.InvalidOption, match="Did you mean 'max_size'"):
        stoker.Batch(maxsize=3)  # type: ignore[call-arg]
    with pytest.raises(stoker.InvalidOption, match=r"stoker\.Batch"):
        app.function(batch=3)  # type: ignore[call-overload]
    with pytest.raises(stoker.InvalidOption, match="Leave one of them out"):
        app.function(batch=BATCH, gang=stoker.Gang(2))
    with pytest.raises(stoker.InvalidOption, match="is a generator function"):

        @app.function(batch=BATCH)
        def yields(xs: list[int]) -> Iterator[int]:
            yield from xs


def test_a_method_that_takes_no_batches_has_a_worker_to_itself(tmp_path: Path) -> None:
    mixed = Mixed()
    assert list(mixed.quick.map(range(300))) == list(range(300))  # so quick that many are leased together
    calls = [mixed.meets.spawn(str(tmp_path), name) for name in ("one", "other")]
    assert mixed.quick.remote(7) == 7
    first, second = stoker.gather(*calls)
    assert first != second

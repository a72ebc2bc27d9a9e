"""Stoker, a persistent server and what is deployed to it: ``python -m bench.served.on_stoker WHAT PORT``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import stoker
from bench import persistent
from bench.served import work

app = stoker.App("bench")


@app.function(max_workers=1)
@stoker.endpoint(requires_token=False)
def echo(x: float) -> dict[str, float]:
    return work.echo(x)


@app.function(max_workers=1, batch=stoker.Batch(max_size=work.BATCH_MAX, max_wait=work.BATCH_SECONDS))
@stoker.endpoint(requires_token=False)
def label(row: list[list[float]]) -> list[int]:
    return work.labels(row)


@app.function(max_workers=1)
@stoker.endpoint(requires_token=False)
def slow(x: float) -> dict[str, float]:
    return work.slow(x)


@app.function(max_workers=1)
@stoker.endpoint(requires_token=False)
def tokens(count: int, think: float) -> Iterator[float]:
    """Yield as a model does: first it thinks; each token says how many seconds after the function's begin it came."""
    began = time.perf_counter()
    for _ in range(count):
        time.sleep(think)
        yield time.perf_counter() - began


def main() -> None:
    variables = {**os.environ, "STOKER_HTTP": f"127.0.0.1:{sys.argv[2]}"}
    with persistent.server(variables):
        persistent.stoker(variables, "deploy", __file__)
        work.until_told()


if __name__ == "__main__":
    main()

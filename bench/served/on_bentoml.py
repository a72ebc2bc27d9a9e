"""BentoML, one worker: ``python -m bench.served.on_bentoml WHAT PORT``. Defaults, but where a line says why."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import bentoml

from bench.served import work


@bentoml.service
class Echo:
    @bentoml.api
    async def echo(self, x: float) -> dict[str, float]:
        return work.echo(x)


@bentoml.service
class Label:
    @bentoml.api(batchable=True, max_batch_size=work.BATCH_MAX, max_latency_ms=1000)
    def label(self, rows: list[Any]) -> list[int]:
        return work.labels(rows)


@bentoml.service(traffic={"max_concurrency": 81})  # 80 of 5 ms are what the deadline leaves room for
class Slow:
    @bentoml.api
    def slow(self, x: float) -> dict[str, float]:
        return work.slow(x)


def main() -> None:
    what, port = sys.argv[1], sys.argv[2]
    service = f"bench.served.on_bentoml:{what.capitalize()}"
    command = [sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", port]
    serving = subprocess.Popen(command, env={**os.environ, "BENTOML_DO_NOT_TRACK": "True"}, stdin=subprocess.DEVNULL)
    try:
        work.until_told()
    finally:
        serving.terminate()
        serving.wait(30)


if __name__ == "__main__":
    main()

"""Ray Serve, one replica: ``python -m bench.served.on_ray_serve WHAT PORT``. Defaults, but where a line says why."""

from __future__ import annotations

import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from bench.served import work

CONNECTIONS = 64


@serve.deployment
class Echo:
    async def __call__(self, request: Request) -> dict[str, float]:
        return work.echo((await request.json())["x"])


@serve.deployment(max_ongoing_requests=CONNECTIONS)  # else 5, which no batch could be filled from
class Label:
    @serve.batch(max_batch_size=work.BATCH_MAX, batch_wait_timeout_s=work.BATCH_SECONDS)
    async def labels(self, rows: list[Any]) -> list[int]:
        return work.labels(rows)

    async def __call__(self, request: Request) -> int:
        return await self.labels((await request.json())["row"])


@serve.deployment(max_ongoing_requests=1, max_queued_requests=80)  # 80 of 5 ms are what the deadline leaves room for
class Slow:
    async def __call__(self, request: Request) -> dict[str, float]:
        return work.slow((await request.json())["x"])


SERVED = {"echo": Echo, "label": Label, "slow": Slow}


def main() -> None:
    what, port = sys.argv[1], int(sys.argv[2])
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=256 << 20, logging_level="error", log_to_driver=False
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(SERVED[what].bind(), route_prefix=f"/{what}")
        work.until_told()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()

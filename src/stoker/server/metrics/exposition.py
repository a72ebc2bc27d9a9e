"""Metrics as text: written by `prometheus_client`, in a thread, so that the loop goes on whatever there is to write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from stoker.server.metrics.families import Door, Family, families
from stoker.server.metrics.histograms import Buckets

if TYPE_CHECKING:
    from stoker.server.server import Server

FRESH_SECONDS = 0.5  # within which whoever asks is told the same: many scrapers cost as much as one
ACCEPT_MAX_CHARACTERS = 1000


class Exposition:
    """See the module."""

    def __init__(self, server: Server, door: Door) -> None:
        self._server = server
        self._door = door
        self._made = 0.0
        self._wanted = ""
        self._writing: asyncio.Future[tuple[bytes, str]] | None = None

    async def text(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, and their media type: Prometheus's own text, or OpenMetrics where that is asked for."""
        wanted = accept[:ACCEPT_MAX_CHARACTERS] if "openmetrics" in accept else ""
        now = self._server.now()
        if self._writing is None or wanted != self._wanted or now - self._made > FRESH_SECONDS:
            # A thread of its own: those that others share may all wait for a store that is away.
            thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
            self._made, self._wanted = now, wanted
            self._writing = asyncio.get_running_loop().run_in_executor(
                thread, written, families(self._server, self._door), wanted
            )
            thread.shutdown(wait=False)
        return await asyncio.shield(self._writing)


def written(found: Sequence[Family], accept: str) -> tuple[bytes, str]:
    """Write metrics, and those of this process, in the format that is asked for."""
    from prometheus_client import exposition  # a fifth of a second, on the first scrape
    from prometheus_client.process_collector import ProcessCollector
    from prometheus_client.registry import Collector, CollectorRegistry

    class Found(Collector):
        def collect(self) -> Iterator[Any]:
            return map(_metric, found)

    registry = CollectorRegistry()
    registry.register(Found())
    ProcessCollector(registry=registry)
    write, media_type = exposition.choose_encoder(accept)
    return write(registry), media_type


def _metric(family: Family) -> Any:
    from prometheus_client import core

    kinds: dict[str, Any] = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    made = kinds[family.kind](family.name, family.help, labels=family.labels)
    for labels, value in family.samples:
        if isinstance(value, Buckets):
            made.add_metric(labels, value.upto, value.total)
        else:
            made.add_metric(labels, value)
    return made

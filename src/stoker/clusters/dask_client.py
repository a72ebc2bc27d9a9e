"""The caller's side of a Dask cluster: a `distributed.Client` that brings its cluster with it, and takes it along."""

from __future__ import annotations

import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from stoker.clusters.dask_ranks import READY, DaskPlan, serve
from stoker.clusters.gang_call import GangCall, deadline_of, gang_options, lacking
from stoker.errors import InvalidRequest

if TYPE_CHECKING:
    from distributed import Client


def start(
    *,
    workers: int,
    threads: int | None,
    timeout: Any,
    source: str,
    options: dict[str, Any],
) -> Client:
    """Start a cluster and return its client; see `stoker.clusters.dask`."""
    distributed = _distributed()
    until = deadline_of(timeout)
    given = gang_options(workers, **options)
    plan = _plan(distributed, threads=_threads(threads, options["cpu"]), memory=_bytes(given))
    gang = GangCall(serve, plan, what="Dask", source=source, options=given)
    gang.show(f"starting a Dask cluster of {workers} workers")
    try:
        addresses = gang.wait(gang.addresses, until=until, missing=gang.why)
        gang.reach(addresses[0], until=until)
        client = _client_class()(gang, f"tls://{addresses[0]}", plan, timeout=_left(until))
    except BaseException:
        gang.end()
        raise
    try:
        missing = f"of its {workers} workers were up."
        gang.wait(lambda: _ready(client) >= workers or None, until=until, missing=lambda: f"{_ready(client)} {missing}")
    except BaseException:
        client.close()
        raise
    gang.show("")
    client.scheduler_info()  # what its repr shows
    return client


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        what = f"stoker.clusters.dask() returns a client of Dask's, and {sys.executable} has none ({error})"
        raise InvalidRequest(f"{what}. {lacking('distributed', 'cryptography')}") from None
    return distributed


def _plan(distributed: Any, *, threads: int, memory: int | None) -> DaskPlan:
    try:
        made = distributed.security.Security.temporary()
    except ImportError:
        raise InvalidRequest(
            "A Dask cluster runs whatever whoever reaches it sends, so each has a key of its own, and making one takes "
            f"the package cryptography, which {sys.executable} does not have. {lacking('cryptography')}"
        ) from None
    return DaskPlan(
        distributed=distributed.__version__,
        python=f"{sys.version_info[0]}.{sys.version_info[1]}",
        threads=threads,
        memory=memory,
        certificate=made.tls_ca_file,
        key=made.tls_client_key,
    )


def _threads(threads: Any, cpu: float) -> int:
    if threads is None:
        return max(1, round(cpu))
    if isinstance(threads, int) and not isinstance(threads, bool) and threads >= 1:
        return threads
    raise InvalidRequest(f"threads={threads!r} is not a number of threads. Write one of at least 1.")


def _bytes(options: dict[str, Any]) -> int | None:
    from stoker.client.options import FunctionOptions

    return FunctionOptions.of(options).to_spec().memory


def _left(until: float) -> float:
    return max(1.0, until - time.monotonic())


def _ready(client: Client) -> int:
    return len(client.get_metadata([READY], default={}))


@cache
def _client_class() -> Any:
    """Return the type of the clients; made when first wanted, since `distributed` may not be here."""
    from distributed import Client

    class ClusterClient(Client):
        """A client whose cluster lives as long as it."""

        _gang: GangCall | None = None

        def __init__(self, gang: GangCall, address: str, plan: DaskPlan, *, timeout: float) -> None:
            super().__init__(address, security=plan.security(), timeout=timeout)
            self._gang = gang

        def close(self, *args: Any, **kwargs: Any) -> Any:
            """Close the client and end its cluster.

            Raises:
                BaseException: what the cluster has ended with before, once.
            """
            gang, self._gang = self._gang, None
            failure = gang.failure(is_lost=self.status == "connecting") if gang is not None else None
            try:
                return super().close(*args, **kwargs)
            finally:
                if gang is not None:
                    gang.end()
                if failure is not None:
                    raise failure

    return ClusterClient

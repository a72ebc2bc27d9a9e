"""What the ranks of a Dask cluster run: a worker each, below a nanny of Dask's own, and rank 0 the scheduler as well.

Scheduler and nannies run in Stoker's worker processes, tasks in processes below those: Dask restarts one that dies, and
what hangs in it can be killed. All of them talk TLS, and only to who has the cluster's own key.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from stoker.client.gangs import gang_info
from stoker.clusters.rank_files import scratch
from stoker.errors import InvalidRequest, VersionMismatch

CONNECT_SECONDS = 60  # for a scheduler whose packages are read from a cold disk
CLOSE_SECONDS = 2.0  # for a worker to end before it is killed; a cancelled rank has 5 s
OWN_BYTES = 256 << 20  # of a rank's memory, for scheduler, nanny and Stoker's worker: the rest is Dask's to manage
CONFIG = {
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
    # The HTTP servers of Dask know no password: they have no pages, and are heard on this machine only.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
NOWHERE = "127.0.0.1:0"
READY = "stoker-ranks"  # where in the scheduler's metadata each rank says that it is up


@dataclass(frozen=True)
class DaskPlan:
    """What every rank of a cluster is told. The certificate is the cluster's authority as well: it signs itself."""

    distributed: str  # the caller's version
    python: str
    threads: int
    memory: int | None
    certificate: str = field(repr=False)
    key: str = field(repr=False)

    def security(self) -> Any:
        """Return what Dask wants to know of it."""
        from distributed.security import Security

        roles = ("client", "scheduler", "worker")
        files = {f"tls_{role}_{kind}": text for role in roles for kind, text in self._parts()}
        return Security(require_encryption=True, tls_ca_file=self.certificate, **files)

    def _parts(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return ("cert", self.certificate), ("key", self.key)


async def serve(plan: DaskPlan) -> None:
    """Be a rank of a Dask cluster until the client ends it.

    Raises:
        InvalidRequest: Dask is not installed here.
        VersionMismatch: it is another version than the caller's.
    """
    check_versions(plan)
    import dask
    from distributed import Nanny, Scheduler

    logging.getLogger("distributed").setLevel(logging.ERROR)
    info = gang_info()
    host = info.addresses[info.rank].rpartition(":")[0]
    security = plan.security()
    with scratch() as directory, dask.config.set({**CONFIG, "temporary-directory": str(directory)}):
        async with AsyncExitStack() as closing:
            if info.rank == 0:
                scheduler = Scheduler(
                    host=host,
                    port=info.master_port,
                    protocol="tls",
                    security=security,
                    dashboard=False,
                    dashboard_address=NOWHERE,
                )
                await closing.enter_async_context(scheduler)
            nanny = Nanny(
                f"tls://{info.addresses[0]}",
                host=host,
                nthreads=plan.threads,
                memory_limit=memory_limit(plan.memory),
                name=f"rank-{info.rank}",
                security=security,
                death_timeout=CONNECT_SECONDS,
                dashboard=False,
                dashboard_address=NOWHERE,
                silence_logs=logging.ERROR,
            )
            closing.push_async_callback(nanny.close, timeout=CLOSE_SECONDS)
            await nanny
            # Its worker is known to the scheduler a moment before, and a task that ended it then would end the rank.
            await nanny.scheduler.set_metadata(keys=[READY, nanny.name], value=True)
            await nanny.finished()


def check_versions(plan: DaskPlan) -> None:
    """Raise the error that says what this rank's image lacks."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    wanted = f'.pip_install("distributed=={plan.distributed}")'
    try:
        from distributed import __version__ as version  # type: ignore[attr-defined]
    except ImportError as error:
        raise InvalidRequest(
            f"The image of the Dask cluster's ranks has no distributed ({error}). Add it, in the version that the "
            f"program with the client has: stoker.Image.python({plan.python!r}){wanted}."
        ) from None
    if (version, python) != (plan.distributed, plan.python):
        raise VersionMismatch(
            f"The program with the Dask client has distributed {plan.distributed} on Python {plan.python}, the image "
            f"of the cluster's ranks has distributed {version} on Python {python}. Tasks cannot travel "
            f"between them: use stoker.Image.python({plan.python!r}){wanted}, or Stoker's own choice, the caller's "
            "environment, by leaving image= out."
        )


def memory_limit(grant: int | None) -> int | str:
    """Return what Dask may fill before it spills, pauses and restarts, of what Stoker would kill the rank beyond."""
    return "auto" if grant is None else max(grant - OWN_BYTES, grant // 2)

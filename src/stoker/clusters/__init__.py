"""Gangs turned into other systems' clusters: private ones, that last as long as they are used.

    with stoker.clusters.dask(workers=4, memory="2GiB") as client:
        print(client.submit(sum, range(100)).result())

Nothing of those systems is imported before it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from stoker.client.names import names_checked
from stoker.clusters.gang_call import module_of
from stoker.clusters.ray_driver import RayCluster

if TYPE_CHECKING:
    from distributed import Client

    from stoker.client.image import Image

CALLER = 2  # frames up: between is what checks the names of arguments

__all__ = ["RayCluster", "dask", "ray"]


@names_checked
def dask(
    workers: int = 4,
    *,
    image: Image | None = None,
    cpu: float = 1.0,
    memory: int | str | None = None,
    threads: int | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | str | timedelta = "10m",
) -> Client:
    """Start a Dask cluster in a gang and return a `distributed.Client` of it, which ends the cluster when it is closed.

    Args:
        workers: how many there are; each is a rank of the gang, and holds ``cpu`` and ``memory``.
        image: their environment; None is the caller's own. It needs the caller's version of Python and ``distributed``.
        threads: that run tasks in each worker; None: as many as it has cores, at least one.
        env: environment variables of the workers.
        timeout: within which the whole cluster must be there, the wait for room and the building of the image included.

    Raises:
        InvalidRequest: ``distributed`` is missing, here or in the image; the message says where, and what to install.
        VersionMismatch: its versions differ.
        Unschedulable: the nodes can never hold so many workers; says how many fit.
        StartupError: it was not there in time.
        ConnectionFailed: the workers run, but this machine does not reach them.
    """
    from stoker.clusters import dask_client

    options = {"image": image, "cpu": cpu, "memory": memory, "env": dict(env or {})}
    source = module_of(sys._getframe(CALLER))
    return dask_client.start(workers=workers, threads=threads, timeout=timeout, source=source, options=options)


@names_checked
def ray(
    workers: int = 4,
    *,
    image: Image | None = None,
    cpu: float = 1.0,
    memory: int | str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | str | timedelta = "10m",
) -> RayCluster:
    """Start a Ray cluster in a gang and make this program its driver, until what this returns is closed.

    One of the workers has to be on this program's machine, since Ray connects a driver to a node beside it.

    Args:
        workers: how many nodes there are; each is a rank of the gang, and holds ``cpu`` and ``memory``.
        image: their environment; None is the caller's own. It needs the caller's versions of Python and ``ray``.
        env: environment variables of the nodes.
        timeout: within which the whole cluster must be there, the wait for room and the building of the image included.

    Raises:
        InvalidRequest: Ray is missing, here or in the image, or this program is connected to one already.
        VersionMismatch: its versions differ.
        Unschedulable: the nodes can never hold so many workers; says how many fit.
        StartupError: it was not there in time.
        ConnectionFailed: no worker is on this machine, or this machine does not reach them.
    """
    from stoker.clusters import ray_driver

    options = {"image": image, "cpu": cpu, "memory": memory, "env": dict(env or {})}
    source = module_of(sys._getframe(CALLER))
    return ray_driver.start(workers=workers, timeout=timeout, source=source, options=options)

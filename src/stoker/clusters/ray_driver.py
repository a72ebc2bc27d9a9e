"""The caller's side of a Ray cluster: this program becomes its driver."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from types import TracebackType
from typing import Any

from stoker.client import notices
from stoker.clusters.gang_call import GangCall, deadline_of, gang_options, lacking
from stoker.clusters.ray_ranks import RayPlan, serve
from stoker.errors import ConnectionFailed, InvalidRequest

ASK_SECONDS = 2.0


class RayCluster:
    """A Ray cluster that this program is connected to, until it is closed.

    Attributes:
        address: of its head.
        workers: how many nodes it has.
    """

    def __init__(self, gang: GangCall, address: str, workers: int, authority: Authority) -> None:
        self.address = address
        self.workers = workers
        self._gang: GangCall | None = gang
        self._authority = authority

    def close(self) -> None:
        """Disconnect and end the cluster. Twice is fine.

        Raises:
            BaseException: what the cluster has ended with before, once.
        """
        import ray

        gang, self._gang = self._gang, None
        if gang is None:
            return
        failure = gang.failure(is_lost=not ray.is_initialized())
        try:
            _disconnect()
        finally:
            self._authority.leave()
            gang.end()
        if failure is not None:
            raise failure

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Ray cluster of {self.workers} at {self.address}>"


class Authority:
    """The token in this process: Ray reads it from the environment, once, and is told to read it again."""

    def __init__(self, token: str) -> None:
        self._before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
        _read_again()

    def leave(self) -> None:
        """Restore what was there before."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_again()


def start(*, workers: int, timeout: Any, source: str, options: dict[str, Any]) -> RayCluster:
    """Start a cluster and connect this program; see `stoker.clusters.ray`."""
    version = _version()
    until = deadline_of(timeout)
    given = gang_options(workers, **options)
    plan = RayPlan(
        ray=version,
        python=f"{sys.version_info[0]}.{sys.version_info[1]}",
        cpus=max(1, round(options["cpu"])),
        memory=_bytes(given),
        token=secrets.token_hex(32),
    )
    gang = GangCall(serve, plan, what="Ray", source=source, options=given)
    authority = None
    gang.show(f"starting a Ray cluster of {workers} nodes, which takes some 10 s")
    try:
        addresses = gang.wait(gang.addresses, until=until, missing=gang.why)
        check_here(addresses)
        gang.reach(addresses[0], until=until)
        authority = Authority(plan.token)
        seen = _Nodes(addresses[0])
        missing = f"of its {workers} nodes"
        gang.wait(lambda: seen.there(workers), until=until, missing=lambda: f"{seen.count} {missing} had come.")
        cluster = _connect(gang, addresses[0], workers, authority)
        gang.show("")
        return cluster
    except BaseException:
        if authority is not None:
            authority.leave()
        gang.end()
        raise


def _connect(gang: GangCall, address: str, workers: int, authority: Authority) -> RayCluster:
    import ray

    def disconnect() -> None:
        """Wake whoever waits for the cluster: Ray itself would let it wait for a minute, and end the program then."""
        notices.warn(f"The Ray cluster is gone, and this program is disconnected from it. {gang.failure()}")
        ray.shutdown()

    ray.init(address=address, logging_level=logging.WARNING)
    try:
        gang.on_failure(disconnect)
    except BaseException:
        ray.shutdown()
        raise
    return RayCluster(gang, address, workers, authority)


def _disconnect() -> None:
    """Leave the cluster, also where that is interrupted: a program that is connected would wait for it at its end."""
    import ray

    try:
        ray.shutdown()
    except BaseException:
        ray.shutdown()
        raise


def _version() -> str:
    try:
        import ray
        from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # noqa: F401
    except ImportError as error:
        raise InvalidRequest(
            f"stoker.clusters.ray() makes this program a driver of Ray's, and {sys.executable} has no Ray with tokens "
            f"({error}). {lacking('ray>=2.52')}"
        ) from None
    if ray.is_initialized():
        raise InvalidRequest(
            "This program is connected to a Ray cluster already, and can be a driver of one only. Call ray.shutdown(), "
            "or close the other cluster first."
        )
    return ray.__version__


def _bytes(options: dict[str, Any]) -> int | None:
    from stoker.client.options import FunctionOptions

    return FunctionOptions.of(options).to_spec().memory


def check_here(addresses: list[str]) -> None:
    """Raise `ConnectionFailed` where none of the ranks is on this machine: a driver needs a node of Ray's beside it."""
    hosts = sorted({address.rpartition(":")[0] for address in addresses})
    if not any(_is_here(host) for host in hosts):
        raise ConnectionFailed(
            f"The Ray cluster's ranks run on {', '.join(hosts)}, and Ray connects a program to a node on the same "
            "machine only. Make the cluster in a function of Stoker's that runs there, or in a program on one of them."
        )


def _is_here(host: str) -> bool:
    """Tell whether an address is one of this machine's: only then can something listen there."""
    try:
        with socket.create_server((host, 0)):
            return True
    except OSError:
        return False


def _read_again() -> None:
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


class _Nodes:
    """The nodes that have joined, as the head knows them."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.count = 0

    def there(self, wanted: int) -> bool | None:
        """Return true once there are as many as wanted."""
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.exceptions import RayError

        alive = 0
        try:
            nodes = GcsClient(address=self._address).get_all_node_info(timeout=ASK_SECONDS)
        except (RayError, OSError, RuntimeError):
            return None  # it listens before it answers
        self.count = sum(1 for node in nodes.values() if node.state == alive)
        return True if self.count >= wanted else None

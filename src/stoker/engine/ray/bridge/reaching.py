"""Reaching a Ray cluster: each thing that can be wrong with an address is found by itself, and has its own error."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any

from stoker.errors import ConnectionFailed, InvalidRequest, PermissionDenied, StokerError, VersionMismatch

NAMESPACE = "stoker"  # of all that Stoker makes on a cluster, whichever server
TCP_SECONDS = 3.0
GCS_SECONDS = 5.0
GIVE_UP_SECONDS = 30  # the server asks for less; this ends a bridge that hangs and whose server is gone
AUTH_HELP = (
    "Give the server the cluster's token: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
    "~/.ray/auth_token, as for `ray status`."
)


def reach(address: str) -> None:
    """Make this process a driver of the cluster.

    Raises:
        StokerError: `InvalidRequest`, `ConnectionFailed`, `VersionMismatch` or `PermissionDenied`; its text names both
            sides and what to do.
    """
    signal.alarm(GIVE_UP_SECONDS)
    try:
        _reach(address)
    finally:
        signal.alarm(0)


def _reach(address: str) -> None:
    # Before Ray is imported: it reads them then.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise InvalidRequest(
            f"Ray cannot be imported by {sys.executable}: {error}. Install it: pip install 'stoker[ray]'."
        ) from None
    found = _resolve(address)
    _check_listening(found)
    _check_cluster(found)
    _attach(ray, found)


def _resolve(address: str) -> str:
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address(address)
    except ConnectionError:
        found = None
    except ValueError as error:
        raise InvalidRequest(f"{address} is no address of a Ray cluster: {error}. Use HOST:PORT, or 'auto'.") from None
    if not found:
        raise ConnectionFailed(
            f"No Ray runs on this machine ({address!r} looks for one here). Start one with `ray start`, or name a "
            "cluster: --ray-address HOST:6379."
        )
    return str(found)


def _check_listening(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=TCP_SECONDS):
            pass
    except ValueError:
        raise InvalidRequest(f"{address} is no address of a Ray cluster: use HOST:PORT, or 'auto'.") from None
    except OSError as error:
        raise ConnectionFailed(
            f"No Ray answers at {address}: {error.strerror or error}. The address is the one that `ray start --head` "
            "printed on the cluster's head; its port is 6379 unless another was chosen."
        ) from None


def _check_cluster(address: str) -> None:
    """Ask the head, before anything is started for it, whether it is one of ours."""
    import ray
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    try:
        told = get_cluster_metadata(GcsClient(address=address))
    except Exception as error:  # noqa: BLE001 - Ray raises a plain one of its own for each kind
        raise _translated(error, address) from None
    if not told:
        return
    theirs = (str(told["ray_version"]), str(told["python_version"]))
    ours = (ray.__version__, ".".join(map(str, sys.version_info[:3])))
    if theirs != ours:
        raise VersionMismatch(
            f"The cluster at {address} runs Ray {theirs[0]} on Python {theirs[1]}; the server has Ray {ours[0]} on "
            f"Python {ours[1]}. Both have to be the same: run the server with that Python and "
            f"pip install 'ray=={theirs[0]}' beside it, or the cluster with this one's."
        )


def _attach(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # noqa: BLE001 - as above
        raise _translated(error, address) from None


def _translated(error: Exception, address: str) -> StokerError:
    text = str(error).strip()
    lowered = f"{type(error).__name__} {text}".lower()
    if "authenti" in lowered or "token" in lowered:
        return PermissionDenied(f"The Ray cluster at {address} does not let this server in: {text} {AUTH_HELP}")
    if "version mismatch" in lowered:
        return VersionMismatch(f"The Ray cluster at {address} is of another version: {text}")
    if "can't find" in lowered or "no node" in lowered or "find_node" in lowered:
        return ConnectionFailed(
            f"This machine is no node of the Ray cluster at {address}, and a server has to run on one of its nodes: "
            f"`ray start --address={address}` makes it one (with --num-cpus=0 if it is to run no work). Ray: {text}"
        )
    return ConnectionFailed(f"The Ray cluster at {address} could not be reached: {text or type(error).__name__}")

"""Reaching a Ray cluster: each thing that can be wrong with an address is found by itself, and has its own error."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from stoker.errors import ConnectionFailed, InvalidRequest, PermissionDenied, StokerError, VersionMismatch

NAMESPACE = "stoker"  # of all that Stoker makes on a cluster, whichever server
TCP_SECONDS = 3.0
GCS_SECONDS = 5.0
NODE_SECONDS = 3.0  # for the node of a head that has just been started to be there
LOOK_SECONDS = 0.1
RAY_CHARACTERS = 200  # of what Ray says of tokens: the rest is a page of its own advice
ALIVE = 0  # of Ray's GcsNodeState
GIVE_UP_SECONDS = 30  # the server asks for less; this ends a bridge that hangs and whose server is gone
AUTH_HELP = (
    "Give the server the cluster's token: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
    "~/.ray/auth_token, as for `ray status`."
)


def reach(address: str) -> str:
    """Make this process a driver of the cluster; return its head's HOST:PORT.

    Raises:
        StokerError: `InvalidRequest`, `ConnectionFailed`, `VersionMismatch` or `PermissionDenied`; its text names both
            sides and what to do.
    """
    signal.alarm(GIVE_UP_SECONDS)
    try:
        return _reach(address)
    finally:
        signal.alarm(0)


def _reach(address: str) -> str:
    # Before Ray is imported: it reads them then.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    _check_token(address)
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
    return found


def _check_token(address: str) -> None:
    """Look for the token as Ray does: where it is to have one and finds none, it ends the process."""
    found, where = _token()
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is None and address == "auto" and found:
        # As `ray start` and `ray.init` do on one machine; an address elsewhere is told no token unasked.
        os.environ["RAY_AUTH_MODE"] = "token"
    elif mode is not None and mode.lower() == "token" and not found:
        raise PermissionDenied(f"RAY_AUTH_MODE is token, but there is no token in {where}. {AUTH_HELP}")


def _token() -> tuple[str, str]:
    """Return the token, empty where there is none, and where it was looked for."""
    if told := os.environ.get("RAY_AUTH_TOKEN"):
        return told, "RAY_AUTH_TOKEN"
    place = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return place.read_text().strip(), str(place)
    except OSError as error:
        return "", f"{place} ({error.strerror})"


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
        head = GcsClient(address=address)
        told = get_cluster_metadata(head)
    except Exception as error:  # noqa: BLE001 - Ray raises a plain one of its own for each kind
        raise _translated(error, address) from None
    ours = (ray.__version__, ".".join(map(str, sys.version_info[:3])))
    theirs = (str(told["ray_version"]), str(told["python_version"])) if told else ours
    if theirs != ours:
        raise VersionMismatch(
            f"The cluster at {address} runs Ray {theirs[0]} on Python {theirs[1]}; the server has Ray {ours[0]} on "
            f"Python {ours[1]}. Both have to be the same: run the server with that Python and "
            f"pip install 'ray=={theirs[0]}' beside it, or the cluster with this one's. Stoker needs Python 3.11 "
            "or later."
        )
    _check_node(head, address)


def _check_node(head: Any, address: str) -> None:
    """A driver works through the node that it is on; where there is none, Ray waits for it for a minute."""
    here = {one.address for addresses in psutil.net_if_addrs().values() for one in addresses}
    give_up = time.monotonic() + NODE_SECONDS
    while True:
        nodes = head.get_all_node_info(timeout=GCS_SECONDS).values()
        there = {node.node_manager_address for node in nodes if node.state == ALIVE}
        if there & here or time.monotonic() > give_up:
            break
        time.sleep(LOOK_SECONDS)
    if not there & here:
        raise ConnectionFailed(
            f"This machine is no node of the Ray cluster at {address} (it has {', '.join(sorted(there)) or 'none'}), "
            f"and a server has to run on one. `ray start --address={address}` makes this machine one, with "
            "--num-cpus=0 if it is to run no work."
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
        said = text.partition("\n")[0].partition(". ")[0][:RAY_CHARACTERS]
        return PermissionDenied(
            f"The Ray cluster at {address} asks for a token, and this server has given none or a wrong one. "
            f"{AUTH_HELP} Ray says: {said}."
        )
    if "version mismatch" in lowered:
        return VersionMismatch(f"The Ray cluster at {address} is of another version: {text}")
    return ConnectionFailed(f"The Ray cluster at {address} could not be reached: {text or type(error).__name__}")

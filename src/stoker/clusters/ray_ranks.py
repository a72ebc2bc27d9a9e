"""What the ranks of a Ray cluster run: a node of Ray's each, rank 0 the head.

They want a token that only they and the caller have, keep their files in the rank's own directory, and have no port
that is fixed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stoker.client.gangs import GangInfo, gang_info
from stoker.clusters.rank_files import scratch
from stoker.errors import InvalidRequest, StartupError, VersionMismatch

HEAD_SECONDS = 60.0  # for a head whose files are read from a cold disk
CLOSE_SECONDS = 4.0  # for a node to end in order, which takes 2 to 3 s; a cancelled rank has 5 s
LOOK_SECONDS = 0.1
STORE_SHARE = 0.3  # of a rank's memory, for objects: Ray's own choice
LEAST_STORE_BYTES = 80 << 20  # with less Ray does not start
TAIL_BYTES = 2000


@dataclass(frozen=True)
class RayPlan:
    """What every rank of a cluster is told."""

    ray: str  # the caller's version
    python: str
    cpus: int
    memory: int | None
    token: str = field(repr=False)


async def serve(plan: RayPlan) -> None:
    """Be a node of a Ray cluster until the caller ends it.

    Raises:
        InvalidRequest: Ray is not installed here.
        VersionMismatch: it is another version than the caller's.
        StartupError: the node did not start, or ended.
    """
    check_versions(plan)
    info = gang_info()
    if info.rank:
        await _head_listens(info)
    with scratch() as directory:
        log = directory / "start.log"
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *command(plan, info, directory), stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out,
                env=environment(os.environ, plan.token, directory),
            )  # fmt: skip
        try:
            status = await process.wait()
        except BaseException:
            process.terminate()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), CLOSE_SECONDS)
            raise
        said = log.read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()
    raise StartupError(f"The Ray node of this rank ended with status {status}. Its last words:\n{said}")


def command(plan: RayPlan, info: GangInfo, directory: Path) -> list[str]:
    """Return what starts a rank's node, and ends all of it when it is told to."""
    host = info.addresses[info.rank].rpartition(":")[0]
    where = (
        ["--head", f"--port={info.master_port}", "--include-dashboard=false"]
        if info.rank == 0
        else [f"--address={info.addresses[0]}"]
    )
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
        *where,
        f"--node-ip-address={host}",
        f"--temp-dir={directory}",
        f"--num-cpus={plan.cpus}",
        "--num-gpus=0",
        f"--object-store-memory={store_bytes(plan.memory, ranks=info.local_size)}",
        *([] if plan.memory is None else [f"--memory={plan.memory}"]),
        *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
    ]


def environment(given: Mapping[str, str], token: str, directory: Path) -> dict[str, str]:
    """Return the variables of a node: what this rank imports its tasks import as well."""
    kept = {name: value for name, value in given.items() if name not in {"RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH"}}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_TMPDIR": str(directory),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def store_bytes(memory: int | None, *, ranks: int) -> int:
    """Return how much of a rank's memory holds objects; without a limit, of its share of the machine's."""
    share = memory or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // ranks
    return max(LEAST_STORE_BYTES, int(STORE_SHARE * share))


def check_versions(plan: RayPlan) -> None:
    """Raise the error that says what this rank's image lacks."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    wanted = f'stoker.Image.python({plan.python!r}).pip_install("ray=={plan.ray}")'
    try:
        from ray import __version__ as version
    except ImportError as error:
        raise InvalidRequest(
            f"The image of the Ray cluster's ranks has no Ray ({error}). Add it, in the version that the program has: "
            f"{wanted}."
        ) from None
    if (version, python) != (plan.ray, plan.python):
        raise VersionMismatch(
            f"The program has Ray {plan.ray} on Python {plan.python}, the image of the cluster's ranks has Ray "
            f"{version} on Python {python}. Ray wants both to be equal: use {wanted}, or Stoker's own choice, the "
            "caller's environment, by leaving image= out."
        )


async def _head_listens(info: GangInfo) -> None:
    give_up = asyncio.get_running_loop().time() + HEAD_SECONDS
    while True:
        try:
            _, writer = await asyncio.open_connection(info.master_address, info.master_port)
        except OSError as error:
            if asyncio.get_running_loop().time() >= give_up:
                raise StartupError(
                    f"The Ray head did not listen at {info.addresses[0]} within {HEAD_SECONDS:.0f} s: {error}."
                ) from None
            await asyncio.sleep(LOOK_SECONDS)
        else:
            writer.close()
            return

"""``python -m stoker.server``: one server, embedded in a program or persistent.

The agent is forked off first, before there is a loop or a thread: it shares the imports, so that it costs neither start
time nor memory of its own.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

from stoker import paths
from stoker.core.callback_targets import PUBLIC, Allowed
from stoker.engine.base import Engine
from stoker.engine.local.config import BLOBS_VARIABLE, AgentConfig
from stoker.engine.local.engine import LocalEngine
from stoker.engine.ray.owner import NODES_FILE
from stoker.errors import InvalidRequest, StokerError
from stoker.quantities import parse_duration
from stoker.server.config import END_SIGNALS, ServerConfig
from stoker.server.storage import VARIABLE, open_store
from stoker.transport.addresses import Address, parse_address

log = logging.getLogger("stoker.server")

RAY_LISTEN = "0.0.0.0:7411"
HTTP = "127.0.0.1:7410"
NODE_LEASE_SECONDS = 30.0
RETENTION_SECONDS = 7 * 86400.0  # for which a detached call's result is kept


def main() -> int:
    """Run a server until it is told to stop; the exit status."""
    arguments = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        config = _config(arguments)
        lock = _lock(config)
        identity = _see_to_the_store(config, arguments) if config.store else ""
        engine = _engine(config, identity)
        from stoker.server.serving import serve  # what the agent does not need is imported while it starts

        serve(
            config,
            engine,
            parent_pid=arguments.parent_pid,
            ready=lambda answer: _tell_ready(arguments.ready_fd, answer),
        )
    except StokerError as error:
        log.error("%s", error)
        _tell_ready(arguments.ready_fd, {"error": {"type_name": type(error).__name__, "message": str(error)}})
        return 1
    os.close(lock)
    if config.mode == "embedded":
        shutil.rmtree(config.run_dir, ignore_errors=True)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stoker.server", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--embedded", action="store_true")
    mode.add_argument("--persistent", action="store_true")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--state-dir", type=Path)
    parser.add_argument("--parent-pid", type=int, default=0)
    parser.add_argument("--ready-fd", type=int, default=-1)
    parser.add_argument("--standby", action="store_true")
    return parser.parse_args()


def _config(arguments: argparse.Namespace) -> ServerConfig:
    store = os.environ.pop(VARIABLE, "")  # may hold a password, which is nothing for what this server starts
    if arguments.embedded:
        store = ""
        if arguments.run_dir is None:
            raise InvalidRequest("An embedded server needs --run-dir.")
        run_dir = state_dir = arguments.run_dir
        name = f"stoker-{os.getuid()}-{run_dir.name}"
        segments = paths.SHM_ROOT / name if paths.SHM_ROOT.is_dir() else state_dir / "segments"
    else:
        run_dir = arguments.run_dir or paths.server_runtime()
        state_dir = arguments.state_dir or paths.server_home()
        segments = paths.server_segments(run_dir, state_dir)
    stays = not (arguments.embedded or arguments.parent_pid)  # what ends with a program is for that alone
    listen = os.environ.get("STOKER_LISTEN", "") if stays else ""
    if stays and not listen and os.environ.get("STOKER_ENGINE") == "ray":
        listen = RAY_LISTEN  # agents have to come in somewhere
    http = os.environ.get("STOKER_HTTP", "")
    return ServerConfig(
        http=_http_address(http, stays=stays) if not arguments.embedded else None,
        http_is_chosen=bool(http),
        traces=os.environ.get("STOKER_TRACES", "off") if not arguments.embedded else "off",
        metrics_public=os.environ.get("STOKER_METRICS_PUBLIC") == "yes",
        mode="embedded" if arguments.embedded else "persistent",
        run_dir=paths.private_dir(run_dir.resolve()),
        state_dir=paths.private_dir(state_dir.resolve()),
        segments=segments,
        retention=parse_duration(
            os.environ.get("STOKER_RESULT_RETENTION", RETENTION_SECONDS), option="STOKER_RESULT_RETENTION"
        ),
        store=store,
        standby=arguments.standby,
        listen=parse_address(listen, option="STOKER_LISTEN") if listen else None,
        callbacks=Allowed.parse(os.environ.get("STOKER_CALLBACKS") or PUBLIC),
        tls_cert=_path_in("STOKER_TLS_CERT"),
        tls_key=_path_in("STOKER_TLS_KEY"),
        blobs="" if arguments.embedded else os.environ.get(BLOBS_VARIABLE, ""),
        engine=os.environ.get("STOKER_ENGINE", "local") if stays else "local",
        ray_address=os.environ.get("STOKER_RAY_ADDRESS", "auto"),
        node_lease=parse_duration(os.environ.get("STOKER_NODE_LEASE", NODE_LEASE_SECONDS), option="STOKER_NODE_LEASE"),
    )


def _http_address(given: str, *, stays: bool) -> Address | None:
    """Return where the gateway is: at a port of its own unless somebody says otherwise, ``off`` for nowhere."""
    if given == "off":
        return None
    if given:
        return parse_address(given, option="STOKER_HTTP")
    return parse_address(HTTP, option="STOKER_HTTP") if stays else Address("127.0.0.1", 0)


def _engine(config: ServerConfig, identity: str = "") -> Engine:
    """Return the engine that is asked for; the local one's agent is on its way then.

    ``identity`` is that of a store that servers on several machines may take over.
    """
    if config.engine == "ray":
        from stoker.engine.ray.engine import RayEngine
        from stoker.engine.ray.owner import owner_of
        from stoker.engine.ray.ray_cluster import RayCluster

        _allow_many_files()
        owner = owner_of(config.state_dir, identity)
        cluster = RayCluster(address=config.ray_address, owner=owner, state_dir=config.state_dir)
        return RayEngine(cluster, state_dir=config.state_dir, lease=config.node_lease)
    _refuse_beside_a_cluster(config)
    engine = LocalEngine(_agent_config(config))
    # An agent whose server ends before it can end it would wait for another one: `serve` lets them through again.
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    engine.fork_agent()
    return engine


def _refuse_beside_a_cluster(config: ServerConfig) -> None:
    """See that nothing of a server on Ray runs any more, whose calls would be run here as well.

    Raises:
        InvalidRequest: it was killed, and its nodes may still run them.
    """
    kept = config.state_dir / NODES_FILE
    if kept.exists():
        raise InvalidRequest(
            f"The last server on {config.state_dir} ran its calls on a Ray cluster and was killed: they may still run "
            "there. Start it again as it was (`stoker server start --engine ray`); `stoker server stop` ends it in "
            f"order. If that cluster is gone for good, remove {kept} and start this one."
        )


def _allow_many_files() -> None:
    """A worker on another machine is two connections: a thousand are more than programs may open by default.

    Here no agent is started that would hand this on to user code, as with the local engine.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _path_in(variable: str) -> Path | None:
    return Path(value) if (value := os.environ.get(variable)) else None


def _see_to_the_store(config: ServerConfig, arguments: argparse.Namespace) -> str:
    """Make sure of the database before anything is started, and as a standby wait until it is free; its identity.

    Who had it before is fenced at once, should it come back. The store is closed again: the agent, which is forked off
    next, must not hold a connection that says whose turn it is.
    """
    waited: list[str] = []

    def waiting(holder: str) -> None:
        waited.append(holder)
        log.info("waiting as a standby: %s works on %s", holder, config.store_shown)
        _tell_ready(arguments.ready_fd, {"pid": os.getpid(), "standby": holder})
        arguments.ready_fd = -1  # it is closed, and its number may be another file's

    store = open_store(config, standby=waiting if config.standby else None)
    try:
        if waited:
            store.begin_term()
        return store.identity()
    finally:
        store.close()


def _agent_config(config: ServerConfig) -> AgentConfig:
    return AgentConfig(
        run_dir=config.run_dir,
        state_dir=config.state_dir,
        server_socket=config.socket,
        mode=config.mode,
        blobs=config.blobs,
    )


def _lock(config: ServerConfig) -> int:
    """Hold this state directory: two servers on one would each believe themselves alone."""
    fd = os.open(config.state_dir / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise InvalidRequest(
            f"Another server (pid {holder}) works on {config.state_dir}. Use it (`stoker server status`), stop it "
            "(`stoker server stop`), or give this one a STOKER_HOME of its own."
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def _tell_ready(fd: int, answer: dict[str, object]) -> None:
    if fd >= 0:
        try:
            os.write(fd, json.dumps(answer).encode() + b"\n")
            os.close(fd)
        except OSError:
            pass  # nobody waits any more


if __name__ == "__main__":
    sys.exit(main())

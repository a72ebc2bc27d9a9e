"""`stoker server`: the server that stays, in the background or here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import stoker
from stoker import paths
from stoker.cli import settings
from stoker.cli.readiness import read_readiness
from stoker.cli.screen import Column, count, field, say, show_facts, show_json, show_rows, warn
from stoker.cli.server_requests import ask, ask_local
from stoker.cli.usage import WrongUsage
from stoker.client import session as sessions
from stoker.client.endpoints import VARIABLES, configured_endpoint, local_endpoint
from stoker.engine.local.config import RUN_MARKER
from stoker.engine.local.processes import with_environment
from stoker.engine.local.server_leftovers import remove_files, remove_segments
from stoker.errors import ConnectionFailed, InvalidOption, InvalidRequest, StokerError
from stoker.quantities import format_duration, format_size
from stoker.store.postgres.address import shown

app = typer.Typer(help="The server that stays: it keeps apps, calls and logs.", no_args_is_help=True)

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 60.0  # running calls get their grace first
STATUS_TIMEOUT_SECONDS = 2.0  # for what is said before it stops: a server that hangs is stopped all the same
NODES_SECONDS = 10.0  # for the machines of a cluster to join: some seconds, and no more for one that cannot
POLL_SECONDS = 0.05
NODE_CHARACTERS = 12  # of a node's id on a screen
LOG = "server.log"  # of a server in the background, where its other files are
FIRST_TOKEN = "first"  # made with the first door, so that somebody can come in

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

NODE_COLUMNS = (
    Column("node", lambda row: row["host"] or row["id"]),
    Column("address", field("address"), spare=2),
    Column("state", field("state"), spare=1),
    Column("cores", lambda row: f"{row['cpus']:g}", right=True),
    Column("free", lambda row: f"{row['cpus_free']:g}", right=True),
    Column("memory", lambda row: format_size(row["memory"]), right=True),
    Column("free", lambda row: format_size(row["memory_free"]), right=True),
    Column("workers", count("workers"), right=True),
)


@app.command()
def start(
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay here, with the log on stderr.")] = False,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Listen there too, for programs with a token.")
    ] = None,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where endpoints are reached; off for nowhere.")
    ] = None,
    metrics_public: Annotated[
        bool, typer.Option("--metrics-public", help="Let anybody read /metrics who reaches the server.")
    ] = False,
    traces: Annotated[
        str | None, typer.Option(help="Send traces: otlp, to where the OTEL_* variables say (needs stoker[otel]).")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate for that, as PEM; else one is made.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of the certificate, as PEM.")] = None,
    blobs: Annotated[
        str | None,
        typer.Option(help="Where it keeps blobs: s3://bucket/prefix, gs://… or az://…; else on this machine's disk."),
    ] = None,
    store: Annotated[str | None, typer.Option(help="Keep calls in this database: postgresql://…")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Where it runs workers: local (this machine), ray (a Ray cluster).")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="The Ray cluster: auto, or HOST:PORT of its head. Goes with --engine ray.")
    ] = None,
    standby: Annotated[bool, typer.Option("--standby", help="Wait until no other server has the store.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start the server in the background and wait until it listens."""
    if ray_address is not None and engine != "ray" and os.environ.get("STOKER_ENGINE") != "ray":
        raise WrongUsage("--ray-address goes with --engine ray.")
    given = {
        "listen": listen,
        "http": http,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "blobs": blobs,
        "store": store,
        "engine": engine,
        "ray_address": ray_address,
        "traces": traces,
        "metrics_public": "yes" if metrics_public else None,
    }
    settled = _settle(given)
    if metrics_public and os.environ.get("STOKER_HTTP") == "off":
        raise WrongUsage("--metrics-public goes with an address for HTTP, and that is off (--http, STOKER_HTTP).")
    wanted = os.environ.get("STOKER_STORE", "")
    if standby and not wanted:
        raise WrongUsage("--standby is for a store that servers share: name it by --store postgresql://….")
    if local_endpoint() is not None:
        _say_it_runs(settled, store=wanted, foreground=foreground, as_json=as_json)
        return
    if foreground:
        os.execve(sys.executable, _command(standby=standby), _environment())
    ready = _start(_command(standby=standby))
    log = str(log_file())
    if holder := ready.get("standby"):
        if as_json:
            show_json({"started": True, "pid": ready["pid"], "standby": holder, "log": log})
        else:
            say(f"The server waits as a standby (pid {ready['pid']}): {holder} has the store.\n  log     {log}")
        return
    _tell_started(ready, log, as_json=as_json)


def _tell_started(ready: dict[str, Any], log: str, *, as_json: bool) -> None:
    """Say where the server that was started is, once what it needs is there."""
    on_ray = os.environ.get("STOKER_ENGINE") == "ray"
    status = _when_nodes_are_up() if on_ray else ask_local("status")
    doors = tcp_doors(status)
    made = ask_local("token_create", name=FIRST_TOKEN) if doors and not ask_local("tokens") else None
    if status.get("no_http") and os.environ.get("STOKER_HTTP") != "off":
        warn(
            f"there is no HTTP, so endpoints are not reached: {status['no_http']}\nWithout endpoints it serves as "
            "ever. With another port: `stoker server stop`, then `stoker server start --http 127.0.0.1:7411`."
        )
    if as_json:
        token = {"token": made["token"]} if made else {}
        show_json(
            {"started": True, "pid": ready["pid"], "socket": ready["socket"], "log": log, "doors": doors}
            | {name: status[name] for name in ("engine", "engine_place") if on_ray}
            | token
        )
    else:
        say(f"The server runs (pid {ready['pid']}).\n  socket  {ready['socket']}\n  log     {log}")
        for door in http_doors(status):
            say(f"  http    {_with_pin(door)}")
        for door in doors:
            say(f"  door    {_with_pin(door)}")
            say(how_to_connect(door, made["token"] if made else ""))
        if on_ray:
            say(f"  engine  {_engine_of(status)['engine']}")
            say(f"  nodes   {', '.join(sorted(node['host'] for node in status['nodes'])) or 'none yet'}")
            _say_outages(status)
        say("Deploy an app with `stoker deploy FILE.py`; end the server with `stoker server stop`.")


def _when_nodes_are_up() -> dict[str, Any]:
    """Return the status once the machines of the cluster have joined, or will not soon."""
    give_up = time.monotonic() + NODES_SECONDS
    while True:
        status: dict[str, Any] = ask_local("status")
        if (status["nodes"] and not status["outages"]) or time.monotonic() > give_up:
            return status
        time.sleep(POLL_SECONDS)


@contextmanager
def lent() -> Iterator[None]:
    """Have a server for a block: the one that runs, or one that ends with the block, or with this process."""
    if sessions.persistent_endpoint() is not None:
        yield
        return
    pid = int(_start([*_command(), "--parent-pid", str(os.getpid())])["pid"])
    try:
        yield
    finally:
        _ask_to_end(pid)
        _wait_for_end(lambda: not _lives(pid))
        _end_rest(force=False)


def _say_it_runs(settled: Mapping[str, settings.Given], *, store: str, foreground: bool, as_json: bool) -> None:
    """Say that a server runs already, which is as good where it is what was asked for.

    Raises:
        InvalidRequest: it was started with other options than these, or in the background.
        StokerError: it has another store than this one was to have.
    """
    status = ask_local("status")
    if store and status["store"] != shown(store):
        raise StokerError(
            f"A server runs already (pid {status['pid']}), with another store: {status['store']}. Stop it by "
            "`stoker server stop`, or start the new one with a --home and a --runtime-dir of its own."
        )
    other = _other_options(settled, status.get("started_with", {}))
    if foreground or other:
        what = " and ".join(other) or "in the background"
        raise InvalidRequest(
            f"A server runs already (pid {status['pid']}), {what}. Stop it with `stoker server stop` (spawned calls go "
            "on with the next start), then start it again."
        )
    if as_json:
        show_json({"started": False, "pid": status["pid"], "socket": status["socket"], "doors": tcp_doors(status)})
    else:
        say(f"It runs already (pid {status['pid']}, {status['socket']}).")


def _other_options(settled: Mapping[str, settings.Given], running: Mapping[str, str]) -> list[str]:
    """Return in which of the options that were given a server differs, as one would read them of it."""
    return [
        f"without {given.option}" if (found := running[name]) in {"", "no"} else f"with {given.option} {found}"
        for name, given in settled.items()
        if name in running and not settings.is_alike(name, given.shown, running[name])
    ]


def tcp_doors(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the doors of a server for programs with a token."""
    return [door for door in status.get("doors", ()) if door["kind"] == "tcp"]


def http_doors(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Return where a server is reached over HTTP."""
    return [door for door in status.get("doors", ()) if door["kind"] == "http"]


def how_to_connect(door: dict[str, Any], token: str) -> str:
    """Return the command that leads programs elsewhere to a door."""
    pinned = f" --fingerprint {door['fingerprint']}" if door["tls"] else ""
    if not token:
        return (
            f"  connect stoker server connect {door['addresses'][0]}{pinned}  (asks for a token: stoker tokens create)"
        )
    return (
        f"  connect stoker server connect {door['addresses'][0]}{pinned} --token {token}\n"
        f"          This token ({FIRST_TOKEN!r}) is shown once. `stoker tokens` makes others and revokes them."
    )


@app.command()
def stop(
    force: Annotated[bool, typer.Option("--force", help="Kill it, and all that it started, at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the server and wait until everything that it started is gone. Spawned calls go on with its next start."""
    pid = _pid()
    was_there = bool(pid or _agents() or _started())
    if pid and not as_json and not force and (warning := _what_is_interrupted()):  # one that hangs is asked in vain
        say(warning)
    if pid and not force:
        _ask_to_end(pid)
        _wait_for_end(lambda: not _lives(pid))
    elif pid:
        os.kill(pid, signal.SIGKILL)
        _wait_for_end(lambda: not _lives(pid))  # until then it holds its lock, and what it has in shared memory stays
    _end_rest(force=force)
    home, runtime = paths.server_home(), paths.server_runtime()
    remove_files(runtime, lock=home / "server.lock")
    remove_segments(paths.server_segments(runtime, home), lock=home / "server.lock")  # of one that was killed
    if as_json:
        show_json({"stopped": was_there, "pid": pid or None})
    else:
        say("The server has stopped." if was_there else "No server runs.")


def _what_is_interrupted() -> str:
    """Say what becomes of the calls that run now; empty where none does, or the server does not answer."""
    if sessions.persistent_endpoint() is None:
        return ""
    try:
        calls = sessions.current().request("status", {}, timeout=STATUS_TIMEOUT_SECONDS)["calls"]
    except (StokerError, TimeoutError):
        return ""
    finally:
        sessions.close()
    return _interrupted(calls)


def _interrupted(calls: Mapping[str, int]) -> str:
    once, asked = calls["running_once"], calls.get("running_http", 0)  # 0: of a server of an earlier version
    again = calls["running"] - once - asked
    parts = []
    if again:
        some = "call is interrupted and starts" if again == 1 else "calls are interrupted and start"
        parts.append(f"{again} running {some} again when the server is back")
    if once:
        running = "" if again else "running call " if once == 1 else "running calls "
        parts.append(f"{once} {running}may not run twice (lost_retries=0) and fail{'s' * (once == 1)}")
    if asked:
        running = "" if parts else "running call " if asked == 1 else "running calls "
        what = "is answered 503 unless it ends" if asked == 1 else "are answered 503 unless they end"
        parts.append(f"{asked} {running}of HTTP clients {what} within seconds")
    return "; ".join(parts) + "." if parts else ""


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the server, its machines, and how busy they are."""
    if sessions.persistent_endpoint() is None:
        if as_json:
            show_json({"running": False})
        else:
            say("No server runs. Start one with `stoker server start`; `stoker run` needs none.")
        raise typer.Exit(1)
    found = ask("status")
    if as_json:
        show_json({"running": True, **found})
        return
    elsewhere = configured_endpoint()
    show_facts(
        {
            "server": f"version {found['version']}, pid {found['pid']}, start {found['term']} of its store",
            **({"used through": elsewhere.path} if elsewhere is not None else {}),
            "up for": format_duration(found["uptime"]),
            "socket": found["socket"],
            **_engine_of(found),
            "store": found["store"],
            **_described(tcp_doors(found)),
            "http": ", ".join(_with_pin(door) for door in http_doors(found)) or f"none: {found.get('no_http')}",
            **({"log": f"{found['state_dir']}/{LOG}"} if elsewhere is None else {}),
            "blobs": found["blobs"] or "this machine's disk",
            "apps": str(found["apps"]),
            "workers": str(found["workers"]),
            "calls": f"{found['calls']['queued']} queued, {found['calls']['running']} running",
        }
    )
    say("")
    outages = found["outages"]
    columns = NODE_COLUMNS if found["engine"] == "ray" else tuple(c for c in NODE_COLUMNS if not c.spare)
    if found["nodes"] or not outages:
        rows = sorted(found["nodes"], key=lambda node: (node["host"], node["id"]))
        show_rows(rows, columns, as_json=False, empty="No machine has reported yet.")
    _say_outages(found)


def _say_outages(status: dict[str, Any]) -> None:
    for outage in status["outages"]:
        where = f"{outage['address']} (node {outage['node'][:NODE_CHARACTERS]}): " if outage["node"] else ""
        say(f"! {where}{outage['reason']}")


def _with_pin(door: dict[str, Any]) -> str:
    """Return where a door is, and what its certificate is known by."""
    return f"{door['address']}{', TLS, ' + door['fingerprint'] if door['tls'] else ''}"


def _engine_of(found: dict[str, Any]) -> dict[str, str]:
    if found["engine"] != "ray":
        return {}
    how = " (auto: the one that runs on this machine)" if found["ray_address"] == "auto" else ""
    return {"engine": f"the Ray cluster at {found['engine_place'] or found['ray_address']}{how}"}


def _described(doors: list[dict[str, Any]]) -> dict[str, str]:
    facts = {}
    for door in doors:
        facts["door"] = f"{door['address']} ({'TLS' if door['tls'] else 'this machine only'})"
        facts["connections"] = f"{door['connections']} with a token, {door['unknown']} not known yet"
        if door["tls"]:
            facts["fingerprint"] = door["fingerprint"]
    return facts


def log_file() -> Path:
    """Return where the server in the background writes its log."""
    return paths.server_home() / LOG


def _settle(flags: Mapping[str, str | Path | None]) -> dict[str, settings.Given]:
    """Take over settings that were given to this command itself, and return them."""
    given = {name: str(value) for name, value in flags.items() if value is not None}
    try:
        return settings.export_flags(given, os.environ)
    except InvalidOption as error:
        raise WrongUsage(str(error)) from None


def _command(*, standby: bool = False) -> list[str]:
    return [sys.executable, "-P", "-m", "stoker.server", "--persistent", *(["--standby"] if standby else [])]


def _start(command: list[str]) -> dict[str, Any]:
    """Start the server in a session of its own, so that neither Ctrl-C nor the terminal's end reaches it."""
    ready, ready_out = os.pipe()
    try:
        with log_file().open("ab") as log:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(ready_out)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ready_out,),
                start_new_session=True,
                cwd=paths.server_home(),  # not the user's directory, which it would keep in use
                env=_environment(),
            )
    finally:
        os.close(ready_out)
    try:
        with open(ready, "rb", buffering=0) as pipe:  # noqa: PTH123 - a file descriptor
            answer = read_readiness(pipe, timeout=START_TIMEOUT_SECONDS)
    except StokerError:
        process.wait()  # it says why, and ends
        raise
    if answer is None:
        process.kill()
        process.wait()
        home, runtime = paths.server_home(), paths.server_runtime()
        if remove_segments(paths.server_segments(runtime, home), lock=home / "server.lock"):
            _end_rest(force=True)  # it may have come as far as its agent; no other server works here
            remove_files(runtime, lock=home / "server.lock")
        raise ConnectionFailed(f"The server did not start. The end of its log ({log_file()}):\n{_log_tail()}")
    process.returncode = 0  # it outlives us: nothing to wait for, and no warning that we did not
    return answer


def _environment() -> dict[str, str]:
    """Return the server's environment: Stoker is importable there from where it was imported here."""
    root = str(Path(stoker.__file__ or "").resolve().parent.parent)
    given = [str(Path(part).absolute()) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}  # a client's, not its own
    return {**inherited, "PYTHONPATH": os.pathsep.join([*given, root])}


def _log_tail() -> str:
    try:
        return log_file().read_bytes()[-2000:].decode(errors="replace").strip() or "(it is empty)"
    except OSError:
        return "(there is none)"


def _pid() -> int:
    """Return the server's process id from its lock file, 0 where none runs: also one that does not answer is found."""
    try:
        pid = int((paths.server_home() / "server.lock").read_text() or 0)
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return 0
    return pid if b"stoker.server" in command else 0


def _ask_to_end(pid: int) -> None:
    if local_endpoint() is not None:
        try:
            ask_local("shutdown")
            return
        except (StokerError, TimeoutError):
            pass  # it does not answer, or was faster than its answer
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def _wait_for_end(ended: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    while not ended():
        if time.monotonic() > deadline:
            raise StokerError(
                f"The server has not stopped within {STOP_TIMEOUT_SECONDS:.0f} s. `stoker server stop --force` kills "
                f"it; its log is {log_file()}."
            )
        time.sleep(POLL_SECONDS)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def _started() -> list[int]:
    """Return what the server's agent started, and the agents of servers that were killed."""
    marker = f"{RUN_MARKER}={paths.server_runtime().resolve()}"
    return with_environment({os.fsencode(marker)})


def _end_rest(*, force: bool) -> None:
    """See to what a killed server left behind: its agent would wait for another one."""
    seen = {*_agents(), *_started()}  # while one exits its environment reads empty, and it holds the lock still
    for pid in seen if force else _agents():
        try:
            os.kill(pid, signal.SIGKILL if force else signal.SIGTERM)
        except ProcessLookupError:
            continue

    def is_over() -> bool:
        seen.update(_agents(), _started())
        return not any(map(_lives, seen))

    _wait_for_end(is_over)


def _agents() -> list[int]:
    """Return the agents of this home's servers: forked off the server, they show its command line."""
    home = f"STOKER_HOME={os.environ['STOKER_HOME']}" if "STOKER_HOME" in os.environ else ""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or entry.stat().st_uid != os.getuid():
                continue
            words = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        is_ours = b"stoker.server" in words and b"--persistent" in words
        if is_ours and _same_place(variables, home):
            found.append(int(entry.name))
    return found


def _same_place(variables: list[bytes], home: str) -> bool:
    given = next((v for v in variables if v.startswith(b"STOKER_HOME=")), b"")
    return given == os.fsencode(home)

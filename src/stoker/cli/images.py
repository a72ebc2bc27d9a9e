"""`stoker images`: the environments on this machine, or on the nodes of the server that stays."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from stoker import paths
from stoker.blobs.disk import DiskBlobStore
from stoker.cli.environments import wanted_by
from stoker.cli.loading import load, split_target
from stoker.cli.screen import Column, field, say, show_json, show_rows, since, size
from stoker.cli.server_requests import ask
from stoker.cli.usage import WrongUsage
from stoker.client import session as sessions
from stoker.client.image import Image
from stoker.client.registration import Shipment
from stoker.engine.local.requests import Verbs
from stoker.errors import InvalidOption, StokerError
from stoker.images.builder import EnvironmentBuilder
from stoker.quantities import format_size, parse_duration

app = typer.Typer(help="Images: the environments built here, or on the server's nodes.", no_args_is_help=True)

KEY_SHOWN = 12  # characters; enough to name it, as every command takes the beginning of a key

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

NODE_COLUMN = Column("node", lambda row: row["host"] or row["node"][:KEY_SHOWN])

COLUMNS = (
    Column("image", lambda row: row["key"][:KEY_SHOWN]),
    Column("python", field("python")),
    Column("packages", field("packages"), right=True, spare=2),
    Column("size", size("size"), right=True),
    Column("built", since("created"), right=True, spare=3),
    Column("last used", lambda row: "in use" if row["in_use"] else since("last_used")(row), right=True, spare=1),
    Column("among them", field("examples"), flexible=True, style="dim", spare=4),
)


@app.command("list")
def list_images(as_json: AsJson = False) -> None:
    """List the environments on this machine, or on all nodes of the server; the most recently used first."""
    rows = sorted(map(_row, _ask("images")), key=lambda row: -row["last_used"])
    empty = (
        'No environments yet. They are built when needed: stoker.Image.python("3.12").pip_install("numpy"). '
        "`stoker images build FILE.py` builds those of a program now."
    )
    columns = (NODE_COLUMN, *COLUMNS) if any(row["node"] for row in rows) else COLUMNS
    show_rows(rows, columns, as_json=as_json, empty=empty)


@app.command()
def lock(
    key: Annotated[str, typer.Argument(metavar="IMAGE", help="The beginning of its key.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Print what is installed in an environment, one pinned requirement a line."""
    answer = _ask("image_lock", key=key)
    text = answer["lock"] if isinstance(answer, dict) else answer
    if as_json:
        show_json({"lock": text})
    else:
        print(text, end="")


@app.command()
def prune(
    older_than: Annotated[
        str, typer.Option(help="Those last used longer ago than this: 30d, 12h, 0s for all.")
    ] = "30d",
    locks: Annotated[bool, typer.Option("--locks", help="Have them resolved afresh when they are built next.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove environments that were not used for a while. What is in use stays; what is needed again is rebuilt."""
    going = _ask("image_prune", older_than=_age(older_than), locks=locks, dry_run=dry_run)
    freed = sum(environment["size"] for environment in going)
    if as_json:
        show_json({"removed": [environment["key"] for environment in going], "freed": freed, "dry_run": dry_run})
        return
    for environment in going:
        node = environment.get("host") or environment.get("node", "")[:KEY_SHOWN]
        where = f" on node {node}" if node else ""
        what = f"{environment['key'][:KEY_SHOWN]}  {format_size(environment['size'])}{where}"
        say(f"{'would remove' if dry_run else 'removed'} {what}")
    if not going:
        say(f"Nothing to remove: every environment was used within {older_than}, or is in use now.")
    else:
        say(f"{format_size(freed)} {'would be' if dry_run else 'are'} free")


def _ask(verb: str, **params: Any) -> Any:
    """Ask the server that stays, which asks all its nodes; without one, look at this machine's disk."""
    if sessions.persistent_endpoint() is not None:
        return ask(verb, **params)
    return Verbs(environments=paths.environments(), logs=paths.server_home() / "logs").run(verb, params)


@app.command()
def build(
    target: Annotated[str, typer.Argument(metavar="FILE.py", help="The program.", show_default=False)],
    is_module: Annotated[bool, typer.Option("-m", help="The target is a module's name, not a file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build the environments that a program's functions need, before they are needed."""
    program = load(split_target(target)[0], is_module=is_module)
    shipment, blobs = Shipment(), DiskBlobStore(paths.blobs())
    found = []
    for function in program.functions.values():
        default = function.app.image if function.app is not None else None
        found.append((function.label, shipment.image(function.options.image or default or Image.local())))
    for digest, data in shipment.blobs.items():
        blobs.put(f"bundle/{digest}", [data])
    builder = EnvironmentBuilder(paths.environments(), blobs)
    built = []
    for wanted in wanted_by(found):
        names = wanted.names
        environment = builder.ensure(wanted.spec, progress=partial(_progress, names, silent=as_json))
        built.append({"functions": wanted.labels, "key": environment.key, "python": environment.python})
        if not as_json:
            say(f"{names}: {'your own environment' if environment.is_local else environment.key[:KEY_SHOWN]}")
    if as_json:
        show_json(built)
    elif _has_nodes():
        say("They were built on this machine. The server's nodes build theirs when a worker is started there first.")


def _has_nodes() -> bool:
    """Tell whether the server that stays, if any, runs its workers on other machines too."""
    try:
        return sessions.persistent_endpoint() is not None and ask("status")["engine"] != "local"
    except StokerError:
        return False  # what was built here is built, whatever is wrong there


def _age(text: str) -> float:
    try:
        return parse_duration(text, option="--older-than", zero=True)
    except InvalidOption:
        raise WrongUsage(
            f"--older-than {text} is not a duration. Write it as 30d, 12h or 90m; 0s stands for all."
        ) from None


def _progress(names: str, text: str, *, silent: bool) -> None:
    if not silent:
        say(f"{names}: {text}")


def _row(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "node": found.get("node", ""),
        "host": found.get("host", ""),
        "key": found["key"],
        "python": found["python_version"],
        "packages": len(found["packages"]),
        "examples": ", ".join(found["packages"]),
        "size": found["size"],
        "created": found["created"],
        "last_used": found["last_used"],
        "in_use": found["in_use"],
        "directory": found["directory"],
    }

"""`stoker images`: the environments on this machine."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any

import typer

from stoker import paths
from stoker.blobs.disk import DiskBlobStore
from stoker.cli.loading import load, split_target
from stoker.cli.screen import Column, field, say, show_json, show_rows, since, size
from stoker.cli.usage import WrongUsage
from stoker.client.image import Image
from stoker.client.registration import Shipment
from stoker.errors import InvalidOption
from stoker.images.builder import EnvironmentBuilder
from stoker.images.environment import Listed, list_environments, lock_text
from stoker.images.environment import prune as prune_environments
from stoker.quantities import format_size, parse_duration
from stoker.types import ImageSpec

app = typer.Typer(help="Images: the environments built on this machine.", no_args_is_help=True)

KEY_SHOWN = 12  # characters; enough to name it, as every command takes the beginning of a key

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

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
    """List the environments on this machine, the most recently used first."""
    rows = [_row(item) for item in list_environments(paths.environments())]
    empty = (
        'No environments yet. They are built when needed: stoker.Image.python("3.12").pip_install("numpy"). '
        "`stoker images build FILE.py` builds those of a program now."
    )
    show_rows(rows, COLUMNS, as_json=as_json, empty=empty)


@app.command()
def lock(
    key: Annotated[str, typer.Argument(metavar="IMAGE", help="The beginning of its key.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Print what is installed in an environment, one pinned requirement a line."""
    text = lock_text(paths.environments(), key)
    if as_json:
        show_json({"lock": text})
    else:
        print(text, end="")


@app.command()
def prune(
    older_than: Annotated[
        str, typer.Option(help="Those last used longer ago than this: 30d, 12h, 0s for all.")
    ] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove environments that were not used for a while. What is in use stays; what is needed again is rebuilt."""
    age = _age(older_than)
    root = paths.environments()
    if dry_run:
        limit = time.time() - age
        going = [
            item.environment
            for item in list_environments(root)
            if not item.in_use and (not age or item.last_used < limit)
        ]
    else:
        going = prune_environments(root, older_than=age)
    freed = sum(environment.size for environment in going)
    if as_json:
        show_json({"removed": [environment.key for environment in going], "freed": freed, "dry_run": dry_run})
        return
    for environment in going:
        say(
            f"{'would remove' if dry_run else 'removed'} {environment.key[:KEY_SHOWN]}  {format_size(environment.size)}"
        )
    if not going:
        say(f"Nothing to remove: every environment was used within {older_than}, or is in use now.")
    else:
        say(f"{format_size(freed)} {'would be' if dry_run else 'are'} free")


@app.command()
def build(
    target: Annotated[str, typer.Argument(metavar="FILE.py", help="The program.", show_default=False)],
    is_module: Annotated[bool, typer.Option("-m", help="The target is a module's name, not a file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build the environments that a program's functions need, before they are needed."""
    program = load(split_target(target)[0], is_module=is_module)
    shipment, blobs = Shipment(), DiskBlobStore(paths.blobs())
    wanted: dict[str, tuple[ImageSpec, list[str]]] = {}
    for function in program.functions.values():
        default = function.app.image if function.app is not None else None
        spec = shipment.image(function.options.image or default or Image.local())
        wanted.setdefault(spec.digest, (spec, []))[1].append(function.label)
    for digest, data in shipment.blobs.items():
        blobs.put(f"bundle/{digest}", [data])
    builder = EnvironmentBuilder(paths.environments(), blobs)
    built = []
    for spec, labels in wanted.values():
        names = ", ".join(labels)
        environment = builder.ensure(spec, progress=partial(_progress, names, silent=as_json))
        built.append({"functions": labels, "key": environment.key, "python": environment.python})
        if not as_json:
            say(f"{names}: {'your own environment' if environment.is_local else environment.key[:KEY_SHOWN]}")
    if as_json:
        show_json(built)


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


def _row(item: Listed) -> dict[str, Any]:
    environment = item.environment
    names = [line.split("==")[0].strip() for line in environment.lock.splitlines() if "==" in line[:80]]
    return {
        "key": environment.key,
        "python": environment.python_version,
        "packages": len(names),
        "examples": ", ".join(names),
        "size": environment.size,
        "created": environment.created,
        "last_used": item.last_used,
        "in_use": item.in_use,
        "directory": environment.directory,
    }

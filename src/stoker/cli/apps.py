"""`stoker apps`: what is deployed, in which version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from stoker.cli import versions
from stoker.cli.screen import Column, count, field, say, show_json, show_rows, since
from stoker.cli.server_requests import ask
from stoker.cli.troubles import show_troubles

app = typer.Typer(help="Apps: those deployed and those being run.", no_args_is_help=True)

AppName = Annotated[str, typer.Argument(metavar="APP", help="The app's name.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _version(row: Mapping[str, Any]) -> str:
    if row.get("version"):
        return f"v{row['version']}{versions.says_awaited(row)}{versions.says_beside(row)}"
    return f"served as {row['served_as']}" if row.get("served_as") else "run"


COLUMNS = (
    Column("app", field("app"), name=True),
    Column("version", _version, right=True, spare=2),
    Column("deployed", since("created"), right=True, spare=3),
    Column("queued", count("queued"), right=True),
    Column("running", count("running"), right=True),
    Column("workers", count("workers"), right=True, spare=1),
    Column("functions", lambda row: ", ".join(row["functions"]), flexible=True, wraps=True, spare=4),
)


@app.command("list")
def list_apps(as_json: AsJson = False) -> None:
    """List apps: deployed ones with their version, and those that programs run just now."""
    rows = ask("apps")
    show_rows(rows, COLUMNS, as_json=as_json, empty="No apps. Deploy one with `stoker deploy FILE.py`.")
    if not as_json:
        found = [(f"{row['app']}.{name}", told) for row in rows for name, told in row.get("trouble", {}).items()]
        show_troubles(dict(found))
        versions.say_stopped(rows)


@app.command()
def stop(name: AppName, as_json: AsJson = False) -> None:
    """Remove a deployed app. Calls that were accepted are finished; new ones are refused."""
    ask("undeploy", app=name, seen=versions.seen(name))
    if as_json:
        show_json({"app": name, "stopped": True})
    else:
        say(f"stopped {name}; calls that were accepted are being finished (`stoker calls list --app {name}`)")


app.command()(versions.history)
app.command()(versions.canary)
app.command()(versions.shadow)
app.command()(versions.promote)
app.command()(versions.abort)
app.command()(versions.rollback)

"""`stoker tokens`: who may use this machine's server over TCP."""

from __future__ import annotations

from typing import Annotated

import typer

from stoker.cli.screen import Column, ago, field, say, show_json, show_rows
from stoker.cli.server_requests import ask_local

app = typer.Typer(help="Tokens: who may use this machine's server over TCP.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

COLUMNS = (
    Column("token", field("name"), flexible=True),
    Column("id", field("id")),
    Column("created", lambda row: ago(row["created"])),
    Column("last used", lambda row: ago(row["used"]) if row["used"] else "never"),
    Column("connections", field("connections"), right=True),
)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, or what for.")],
    as_json: AsJson = False,
) -> None:
    """Make a token and show it, this once: the server keeps a digest of it only."""
    made = ask_local("token_create", name=name)
    if as_json:
        show_json(made)
    else:
        print(made["token"])


@app.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List the tokens, and who uses them now."""
    empty = "No tokens: nobody can use this server over TCP. `stoker tokens create NAME` makes one."
    show_rows(ask_local("tokens"), COLUMNS, as_json=as_json, empty=empty)


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Its name or id.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a token: connections that came with it are closed, and what they wait for is cancelled."""
    ask_local("token_revoke", name=name)
    if as_json:
        show_json({"revoked": name})
    else:
        say(f"The token {name!r} is revoked.")

"""`stoker tokens`: who may use this machine's server over TCP and HTTP."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from stoker.cli.screen import Column, ago, field, say, show_json, show_rows
from stoker.cli.server_requests import ask_local
from stoker.cli.usage import WrongUsage
from stoker.quantities import format_duration, parse_duration

app = typer.Typer(help="Tokens: who may use this machine's server over TCP and HTTP.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _use(row: Mapping[str, Any]) -> str:
    """Return what a token is good for."""
    if not row["app"]:
        return "everything"
    what = f"{row['app']}.{row['function']}" if row["function"] else row["app"]
    return f"calls of {what}" + (", also from Python" if row["python"] else "")


def _expiry(row: Mapping[str, Any]) -> str:
    if row["expires"] is None:
        return "never"
    left = row["expires"] - time.time()
    if left <= 0:
        return f"[red]{ago(row['expires'])}[/red]"
    return f"in {left / 86400:.0f} days" if left > 2 * 86400 else f"in {format_duration(left)}"


COLUMNS = (
    Column("token", field("name"), name=True),
    Column("id", field("id")),
    Column("for", _use),
    Column("rate", lambda row: row["rate"] or "any", spare=2),
    Column("expires", _expiry, spare=1),
    Column("created", lambda row: ago(row["created"]), spare=3),
    Column("last used", lambda row: ago(row["used"]) if row["used"] else "never"),
    Column("connections", field("connections"), right=True, spare=4),
)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, or what for.")],
    for_app: Annotated[
        str | None, typer.Option("--app", help="For calling this app over HTTP, and nothing else.")
    ] = None,
    function: Annotated[
        str | None, typer.Option(help="And of that only this function, or class. Goes with --app.")
    ] = None,
    python: Annotated[
        bool,
        typer.Option(
            "--python", help="With --app: for calls from Python too; these can run code of theirs in its workers."
        ),
    ] = False,
    rate: Annotated[str | None, typer.Option(help="How many calls: 100/s, 30/m, 1000/h or 5000/d.")] = None,
    burst: Annotated[
        int | None, typer.Option(help="How many of them at once; else all of a period. Goes with --rate.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="After how long it is good no more: 12h, 30d.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and show it, this once: the server keeps a digest of it only."""
    if (function or python) and not for_app:
        raise WrongUsage(f"{'--function' if function else '--python'} goes with --app APP.")
    if burst is not None and rate is None:
        raise WrongUsage("--burst goes with --rate.")
    seconds = parse_duration(expires, option="--expires") if expires is not None else None
    limits = {"app": for_app, "function": function, "rate": rate, "burst": burst, "expires": seconds}
    given = {key: value for key, value in limits.items() if value is not None}
    made = ask_local("token_create", name=name, python=python, **given)
    if as_json:
        show_json(made)
    else:
        print(made["token"])
    if made["note"]:
        print(f"note: {made['note']} The token is good once there is.", file=sys.stderr)


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

"""`stoker callbacks`: who is told how calls end that were made over HTTP, and how that goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from stoker.cli.screen import Column, ago, escape, field, say, show_json, show_rows, state
from stoker.cli.server_requests import ask, ask_local
from stoker.quantities import format_duration

app = typer.Typer(help="Callbacks: where the end of calls is told, and how that goes.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def when(row: Mapping[str, Any]) -> str:
    """Return when a callback is tried next, or was over."""
    if row["state"] == "waiting":
        return "when its call ends"
    left = row["at"] - time.time()
    if row["state"] == "due":
        return f"tried again in {format_duration(left)}" if left > 0 else "tried now"
    return ago(row["at"])


COLUMNS = (
    Column("call", field("call_id")),
    Column("to", lambda row: escape(row["url"]), name=True),
    Column("state", state("state")),
    Column("tries", field("attempts"), right=True, spare=2),
    Column("when", when),
    Column("latest try", lambda row: escape(row["said"]), flexible=True, spare=1),
    Column("token", lambda row: escape(row["token"]), spare=3),
)


@app.command("list")
def list_callbacks(
    open_only: Annotated[bool, typer.Option("--open", help="Those that are not delivered and not given up.")] = False,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="At most so many, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List callbacks, the newest first: to whom, how often they were tried, and what the latest try came to."""
    empty = "No callbacks. A request with `Prefer: respond-async` and `X-Stoker-Callback: URL` has one."
    show_rows(ask("callbacks", open=open_only, limit=limit), COLUMNS, as_json=as_json, empty=empty)


@app.command()
def retry(
    call_id: Annotated[
        str, typer.Argument(metavar="CALL", help="The call's id, or how it alone begins.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Send a callback now, be it one that was given up, or delivered; its tries count from the beginning."""
    ask("callback_retry", id=call_id)
    if as_json:
        show_json({"retried": call_id})
    else:
        say(f"The callback of {call_id} is sent. `stoker callbacks list` shows what becomes of it.")


@app.command()
def secret(
    token: Annotated[str, typer.Argument(help="The name or id of the token that calls are made with.")],
    as_json: AsJson = False,
) -> None:
    """Show the secret by which callbacks of a token's calls are signed: for whoever verifies them."""
    found = ask_local("callback_secret", token=token)
    if as_json:
        show_json(found)
    else:
        print(found["secret"])

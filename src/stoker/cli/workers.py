"""`stoker workers`: the processes that run calls."""

from __future__ import annotations

from typing import Annotated

import typer

from stoker.cli.functions import troubles_of
from stoker.cli.screen import Column, duration, field, show_rows, since, size, state
from stoker.cli.server_requests import ask
from stoker.cli.troubles import show_troubles

app = typer.Typer(help="Workers: the processes that run calls.", no_args_is_help=True)

COLUMNS = (
    Column("worker", field("id")),
    Column("function", field("function"), name=True),
    Column("state", state("state")),
    Column("pid", field("pid"), right=True, spare=2),
    Column("cores", lambda row: f"{row['cpus']:g}", right=True, spare=5),
    Column("memory", size("memory"), right=True, spare=1),
    Column("limit", size("memory_limit"), right=True, spare=6),
    Column("cpu time", duration("cpu_seconds"), right=True, spare=7),
    Column("calls", field("calls_done"), right=True, spare=3),
    Column("started", since("started"), right=True, spare=4),
)
NODE = Column("node", field("host"))  # where there are several


@app.command("list")
def list_workers(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the workers of all functions."""
    empty = "No workers: nothing is running. They start when calls come and end when they have been idle for a while."
    rows = ask("workers")
    columns = (*COLUMNS[:2], NODE, *COLUMNS[2:]) if any(row.get("host") for row in rows) else COLUMNS
    show_rows(rows, columns, as_json=as_json, empty=empty)
    if not as_json:
        show_troubles(troubles_of(ask("functions")))

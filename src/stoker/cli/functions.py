"""`stoker functions`: what is registered and how busy it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from stoker.cli.screen import Column, count, duration, escape, field, show_rows
from stoker.cli.server_requests import ask
from stoker.cli.troubles import show_troubles

app = typer.Typer(help="Functions: their queues and workers.", no_args_is_help=True)


def _workers(row: Mapping[str, Any]) -> str:
    return f"{row['workers']} ({row['idle']} idle)" if row["idle"] else count("workers")(row)


def _parameters(row: Mapping[str, Any]) -> str:
    """Show those of a class, by which its pools differ."""
    return escape(", ".join(f"{name}={value!r}" for name, value in row.get("parameters", {}).items()))


COLUMNS = (
    Column("function", lambda row: f"{row['app']}.{row['name']}", name=True),
    Column("version", lambda row: f"v{row['version']}" if row.get("version") else "run", right=True, spare=5),
    Column("queued", count("queued"), right=True),
    Column("running", count("running"), right=True),
    Column("workers", _workers, spare=1),
    Column("done", field("calls_done"), right=True, spare=4),
    Column("failed", count("failed"), right=True, spare=2),
    Column("a call takes", duration("service_seconds"), right=True, spare=6),
    Column("waiting", lambda row: escape(row.get("waiting") or ""), flexible=True, wraps=True, style="yellow", spare=3),
)


@app.command("list")
def list_functions(
    app_name: Annotated[str | None, typer.Option("--app", help="Those of one app only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List functions, with what waits and what runs."""
    rows = ask("functions", app=app_name)
    empty = "No functions. `stoker deploy FILE.py` deploys an app; `stoker run FILE.py` runs one."
    columns: Sequence[Column] = COLUMNS
    if any(row.get("parameters") for row in rows):
        columns = (COLUMNS[0], Column("parameters", _parameters, flexible=True, wraps=True, spare=2), *COLUMNS[1:])
    show_rows(rows, columns, as_json=as_json, empty=empty)
    if not as_json:
        show_troubles(troubles_of(rows))


def troubles_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what is wrong with functions, by their names; those with whose workers all is well are left out."""
    return {f"{row['app']}.{row['name']}": row["trouble"] for row in rows if row.get("trouble")}

"""`stoker calls`: what was asked for, what became of it, and why it waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from stoker.cli import callbacks
from stoker.cli.screen import (
    Column,
    clock,
    duration,
    escape,
    field,
    say,
    show_facts,
    show_json,
    show_rows,
    since,
    state,
)
from stoker.cli.server_requests import ask
from stoker.cli.usage import WrongUsage
from stoker.errors import InvalidRequest
from stoker.quantities import format_duration
from stoker.types import CallState

app = typer.Typer(help="Calls: their states, timelines and errors.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

STATES = tuple(one.value for one in CallState)


def _function(row: Mapping[str, Any]) -> str:
    return f"{row['function']} [yellow](shadow)[/yellow]" if row.get("shadow") else str(row["function"])


def _state(row: Mapping[str, Any]) -> str:
    """Return a call's state; with the status of an answer that says that it was refused, or failed, by its function."""
    status = (row.get("http") or {}).get("status") or 0
    if row["state"] != "succeeded" or status < 400:
        return state("state")(row)
    return f"[yellow]succeeded, {status}[/yellow]"


def _http(row: Mapping[str, Any]) -> str:
    """Return what came over HTTP: its status, method and path."""
    http = row.get("http")
    if not http:
        return ""
    return escape(" ".join(str(part) for part in (http["status"], http["method"], http["path"]) if part))


def _error(row: Mapping[str, Any]) -> str:
    """Return what a call has raised, or what was wrong with the request that it was."""
    return escape(row.get("error") or (row.get("http") or {}).get("reason") or "")


HTTP = Column("http", _http, flexible=True, wraps=True, spare=6)
COLUMNS = (
    Column("call", field("id")),
    Column("function", _function, name=True),
    Column("state", _state),
    Column("made", since("created"), right=True, spare=1),
    Column("took", duration("seconds"), right=True, spare=3),
    Column("tries", field("attempts"), right=True, spare=4),
    Column("version", lambda row: f"v{row['version']}" if row.get("version") else "", right=True, spare=5),
    HTTP,
    Column("error", lambda row: _first_line(_error(row)), flexible=True, style="red", spare=2),
)


@app.command("list")
def list_calls(
    app_name: Annotated[str | None, typer.Option("--app", help="Those of one app only.")] = None,
    function: Annotated[
        str | None, typer.Option(help="Those of one function only: name, Class.method, or app.name.")
    ] = None,
    state_name: Annotated[str | None, typer.Option("--state", help="queued, running, succeeded, failed, …")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="At most so many, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List calls, the newest first."""
    if state_name and state_name not in STATES:
        raise WrongUsage(f"--state {state_name}: there is no such state. States are: {', '.join(STATES)}.")
    rows = ask("calls", app=app_name, function=function, state=state_name, limit=limit)
    narrowed = app_name or function or state_name
    empty = "No such calls; without options all are listed." if narrowed else "No calls yet. `f.spawn(x)` makes one."
    columns = [column for column in COLUMNS if column is not HTTP or any(row.get("http") for row in rows)]
    show_rows(rows, columns, as_json=as_json, empty=empty)


@app.command()
def show(
    call_id: Annotated[
        str,
        typer.Argument(
            metavar="CALL",
            help="The call's id, how it alone begins, or the X-Request-Id of its request.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show one call: what happened to it, with reasons, and what it waits for."""
    row = ask("call", id=call_id)
    if as_json:
        show_json(row)
        return
    show_facts(_facts(row))
    if row.get("timeline"):
        say("")
        show_rows(row["timeline"], _timeline_columns(row["timeline"]), as_json=False, empty="")
    say(f"\nIts output: stoker logs --call {row['id']}")


@app.command()
def cancel(
    call_ids: Annotated[
        list[str], typer.Argument(metavar="CALL…", help="Ids of calls, or how they alone begin.", show_default=False)
    ],
    force: Annotated[bool, typer.Option("--force", help="End the worker at once, with no time to clean up.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cancel calls. Running code gets an exception that it can clean up on."""
    cancelled = ask("cancel", ids=call_ids, force=force, prefixes=True)["cancelled"]
    if as_json:
        show_json({"cancelled": cancelled})
    elif cancelled:
        say(f"cancelling {', '.join(cancelled)}")
    missed = [given for given in call_ids if not any(call_id.startswith(given) for call_id in cancelled)]
    if missed:
        raise InvalidRequest(
            f"Not open, so not cancelled: {', '.join(missed)}. They have ended, or never were (`stoker calls show`)."
        )


def _facts(row: Mapping[str, Any]) -> dict[str, str]:
    facts = {"call": row["id"], "function": row["function"], "state": _state(row)}
    if row.get("http"):
        facts["http"] = _http(row)
    if row.get("request_id"):
        facts["request"] = escape(row["request_id"])
    if row.get("why"):
        facts["waits"] = f"[yellow]{escape(row['why'])}[/yellow]"
    facts["made"] = f"{clock(row['created'])} ({since('created')(row)})"
    if row.get("seconds") is not None:
        facts["took"] = format_duration(row["seconds"])
    facts["attempts"] = str(row["attempts"])
    facts["kind"] = _kind(row)
    if row.get("version"):
        facts["version"] = f"v{row['version']}"
    if row.get("shadow"):
        facts["kind"] = f"mirrored to a shadow: {row['id'].removesuffix('.shadow')} is the call that was answered"
    if row.get("worker"):
        facts["worker"] = row["worker"]
    if row.get("trace"):
        facts["trace"] = row["trace"].split("-")[1]
    if row.get("tags"):
        facts["tags"] = escape(", ".join(f"{name}={value}" for name, value in row["tags"].items()))
    if callback := row.get("callback"):
        said = f" ({callback['said']})" if callback["said"] else ""
        facts["callback"] = escape(f"{callback['state']}, {callbacks.when(callback)}: {callback['url']}{said}")
    if error := _error(row):
        facts["error"] = f"[red]{error}[/red]"
    return facts


def _kind(row: Mapping[str, Any]) -> str:
    if row.get("http"):
        return "answered later: kept on disk" if row.get("detached") else "a request whose client waits for the answer"
    return "spawned: kept on disk" if row.get("detached") else "attached to its program"


def _timeline_columns(timeline: list[dict[str, Any]]) -> tuple[Column, ...]:
    first = timeline[0]["at"]
    return (
        Column("at", lambda entry: clock(entry["at"])),
        Column("after", lambda entry: format_duration(max(0.0, entry["at"] - first)), right=True),
        Column("", state("event")),
        Column("worker", field("worker")),
        *([Column("node", field("host"))] if any(entry.get("host") for entry in timeline) else []),
        Column("", lambda entry: escape(entry["detail"]), flexible=True, wraps=True),
    )


def _first_line(text: str) -> str:
    return text.split("\n", maxsplit=1)[0]

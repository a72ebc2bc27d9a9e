"""`stoker doctor`: what this machine can do, and what follows from what it cannot."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated, Any

import typer

from stoker.cli.doctor_store import store_facts
from stoker.cli.screen import console, escape, show_json
from stoker.cli.server_requests import ask_local
from stoker.client.endpoints import configured_endpoint, local_endpoint
from stoker.engine.local.probes import FAIL, OK, WARN, Fact, facts
from stoker.errors import StokerError

MARKS = {
    "ok": ("[green]✓[/green]", "dim"),
    "warn": ("[yellow]![/yellow]", "yellow"),
    "fail": ("[red]✗[/red]", "red"),
}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Tell what this machine can and cannot do for Stoker, and what follows."""
    found = [*facts(), *store_facts(os.environ), *door_facts()]
    if as_json:
        show_json([asdict(fact) for fact in found])
        return
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    for fact in found:
        mark, style = MARKS[fact.status]
        text = f"{escape(fact.value)}\n[{style}]{escape(fact.meaning)}[/]" if fact.meaning else escape(fact.value)
        table.add_row(mark, f"[bold]{escape(fact.name)}[/bold]", text)
    console().print(table)
    if any(fact.status == "fail" for fact in found):
        raise typer.Exit(1)


def door_facts() -> list[Fact]:
    """Return which server programs use from here, and where the one of this machine can be reached."""
    found = []
    try:
        elsewhere = configured_endpoint()
    except StokerError as error:
        return [Fact("server", FAIL, "unknown", str(error))]
    if elsewhere is not None:
        found.append(
            Fact("server", OK, elsewhere.path, "Programs go there (STOKER_SERVER, or `stoker server connect`).")
        )
    if local_endpoint() is None:
        return [*found, Fact("doors", OK, "none", "No server runs here that stays; programs start their own.")]
    try:
        doors = ask_local("status")["doors"]
    except (StokerError, TimeoutError) as error:
        return [*found, Fact("doors", WARN, "unknown", f"The server here does not answer: {error}")]
    return [*found, *(_door_fact(door) for door in doors)]


def _door_fact(door: dict[str, Any]) -> Fact:
    if door["kind"] == "unix":
        return Fact("door", OK, door["address"], "Your own programs on this machine come in here.")
    tls = f"TLS, {door['fingerprint']}" if door["tls"] else "no TLS: it is reached from this machine only"
    return Fact("door", OK, door["address"], f"Programs with a token come in here ({tls}).")

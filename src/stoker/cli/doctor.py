"""`stoker doctor`: what this machine can do, and what follows from what it cannot."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from stoker.cli.screen import console, escape, show_json
from stoker.engine.local.probes import facts

MARKS = {
    "ok": ("[green]✓[/green]", "dim"),
    "warn": ("[yellow]![/yellow]", "yellow"),
    "fail": ("[red]✗[/red]", "red"),
}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Tell what this machine can and cannot do for Stoker, and what follows."""
    found = facts()
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

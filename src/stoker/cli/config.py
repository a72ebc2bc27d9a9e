"""`stoker config`: the settings, and where each value came from."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from stoker.cli.screen import Column, field, say, show_json, show_rows
from stoker.cli.settings import DEFAULT, Resolved, from_environment, user_file

app = typer.Typer(help="Settings: flags, STOKER_* variables, stoker.toml, the user's file.", no_args_is_help=True)

resolved: list[Resolved] = []  # by the program's start, before it exported them

COLUMNS = (
    Column("setting", field("name")),
    Column("value", field("value"), name=True),
    Column("from", field("source"), flexible=True, wraps=True),
    Column("variable", field("variable")),
)


@app.callback()
def group() -> None:
    """Settings: flags, then STOKER_* variables, then stoker.toml of the project, then the user's own file."""


@app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show every setting with its value and where that came from."""
    rows = [
        {
            "name": item.setting.name,
            "value": item.shown if item.source != DEFAULT or not as_json else None,
            "source": item.source,
            "variable": item.setting.variable,
            "help": item.setting.help,
        }
        for item in resolved or from_environment()
    ]
    if as_json:
        show_json(rows)
        return
    show_rows(rows, COLUMNS, as_json=False, empty="")
    say(f"\nFlags go before the command (stoker --node-cpus 4 run …). Your own file: {user_file(os.environ)}")

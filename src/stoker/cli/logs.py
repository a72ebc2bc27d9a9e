"""`stoker logs`: what functions have printed."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from stoker.cli.screen import clock, say
from stoker.cli.server_requests import ask, persistent_session


def logs(
    app_name: Annotated[str | None, typer.Option("--app", help="Output of one app.")] = None,
    function: Annotated[str | None, typer.Option(help="Output of one function: name, or app.name.")] = None,
    call: Annotated[str | None, typer.Option(help="Output of one call.")] = None,
    worker: Annotated[str | None, typer.Option(help="Output of one worker.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="At most so many lines, the last ones.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each line.")] = False,
) -> None:
    """Print what functions have printed, oldest first."""
    wanted = {"app": app_name, "function": function, "call": call, "worker": worker}
    rows = ask("logs", **wanted, tail=lines)["lines"] if lines else []
    for row in rows:
        say(json.dumps(row, ensure_ascii=False) if as_json else _line(row))
    if not rows and not follow and not as_json:
        say("No output. " + ("Without options, all is shown." if any(wanted.values()) else "Nothing has printed yet."))
    if follow:
        _follow(wanted)


def _line(row: Mapping[str, Any]) -> str:
    mark = "" if row.get("stream") in ("stdout", None) else f" {row['stream']}"
    when = f"{clock(row['time'])} " if row.get("time") else ""
    return f"{when}{row['function']}{mark} | {row['text']}"


def _follow(wanted: Mapping[str, str | None]) -> None:
    """Show what comes: the server sends it as notices, which the session prints as it does in any program."""
    session = persistent_session()
    session.request("follow", {name: value for name, value in wanted.items() if value is not None})
    session.reader.want_background()
    ended = threading.Event()
    while not session.failed and not ended.wait(0.5):
        pass

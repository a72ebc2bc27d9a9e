"""`stoker logs`: what functions have printed."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from stoker.cli.screen import clock, say
from stoker.cli.server_requests import ask, persistent_session
from stoker.errors import NotFound


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
    if not rows:
        _check_known(wanted)
    for row in rows:
        say(json.dumps(row, ensure_ascii=False) if as_json else _line(row))
    if not rows and not follow and not as_json:
        say("No output: " + ("it has printed nothing." if any(wanted.values()) else "nothing has printed yet."))
    if follow:
        _follow(wanted)


def _check_known(wanted: Mapping[str, str | None]) -> None:
    """Tell a name that nothing has from a silence.

    Raises:
        NotFound: there is no such app, function, call or worker.
    """
    app, function, call, worker = wanted["app"], wanted["function"], wanted["call"], wanted["worker"]
    if call:
        ask("call", id=call)  # raises
    if app and app not in {row["app"] for row in ask("apps")}:
        raise NotFound(f"There is no app {app!r} and no output of one: see `stoker apps list`.")
    if function:
        names = {(row["app"], row["name"]) for row in ask("functions")}
        if not any(function in (name, f"{owner}.{name}") for owner, name in names if app in (None, owner)):
            raise NotFound(f"There is no function {function!r} and no output of one: see `stoker functions list`.")
    if worker and worker not in {row["id"] for row in ask("workers")}:
        raise NotFound(f"There is no worker {worker!r} and no output of one: see `stoker workers list`.")


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

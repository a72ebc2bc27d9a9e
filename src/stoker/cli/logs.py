"""`stoker logs`: what functions have printed."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import typer

from stoker.cli.screen import date_and_clock, say
from stoker.cli.server_requests import ask, persistent_session
from stoker.cli.usage import WrongUsage
from stoker.client import notices
from stoker.errors import InvalidOption, NotFound
from stoker.quantities import parse_duration


def logs(
    app_name: Annotated[str | None, typer.Option("--app", help="Output of one app.")] = None,
    function: Annotated[str | None, typer.Option(help="Output of one function: name, or app.name.")] = None,
    call: Annotated[str | None, typer.Option(help="Output of one call.")] = None,
    worker: Annotated[str | None, typer.Option(help="Output of one worker.")] = None,
    since: Annotated[str | None, typer.Option(help="From then on: 10m (ago), or 2026-01-31T09:30.")] = None,
    until: Annotated[str | None, typer.Option(help="Until then: as --since.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="At most so many lines, the last ones.")] = 100,
    timestamps: Annotated[bool, typer.Option(help="Begin each line with its time, in local time.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each line.")] = False,
) -> None:
    """Print what functions have printed, oldest first."""
    wanted = {"app": app_name, "function": function, "call": call, "worker": worker}
    times = {"since": _moment(since, "--since"), "until": _moment(until, "--until")}
    show = partial(_show, as_json=as_json, timestamps=timestamps)
    rows = ask("logs", **wanted, **times, tail=lines)["lines"] if lines else []
    if not rows:
        _check_known(wanted)
    for row in rows:
        show(row)
    if not rows and not follow and not as_json:
        narrowed = any(wanted.values()) or since or until
        say("No output: " + ("it has printed nothing." if narrowed else "nothing has printed yet."))
    if follow:
        _follow(wanted, show)


def _moment(text: str | None, option: str) -> float | None:
    """Return a point in time: so long ago, or a date and time as ISO writes them, in local time."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - parse_duration(text, option=option)
    except InvalidOption:
        raise WrongUsage(
            f"{option} {text} is neither a duration nor a time. Write how long ago, as in 30s, 10m or 1h30m, or a date "
            "and time, as in 2026-01-31T09:30."
        ) from None


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
        rows = [row for row in ask("functions") if app in (None, row["app"])]
        names = {name for row in rows for name in (row["name"], f"{row['app']}.{row['name']}")}
        of, _, method = function.rpartition(".")
        if of in names and function not in names:
            raise NotFound(
                f"There is no function {function!r}. If {method} is a method of {of}: its output is among its class's, "
                f"--function {of}, and that of one call is --call ID."
            )
        if function not in names:
            raise NotFound(f"There is no function {function!r} and no output of one: see `stoker functions list`.")
    if worker and worker not in {row["id"] for row in ask("workers")}:
        raise NotFound(f"There is no worker {worker!r} and no output of one: see `stoker workers list`.")


def _show(row: Mapping[str, Any], *, as_json: bool, timestamps: bool) -> None:
    say(json.dumps(row, ensure_ascii=False) if as_json else _line(row, timestamps=timestamps))


def _line(row: Mapping[str, Any], *, timestamps: bool) -> str:
    mark = "" if row.get("stream") in ("stdout", None) else f" {row['stream']}"
    when = f"{date_and_clock(row['time'])} " if timestamps and row.get("time") else ""
    return f"{when}{row['function']}{mark} | {row['text']}"


def _follow(wanted: Mapping[str, str | None], show: Callable[[Mapping[str, Any]], None]) -> None:
    """Show what comes: the server sends it as notices."""

    def take(data: dict[str, Any]) -> None:
        columns = zip(data["calls"], data["streams"], data["times"], data["texts"], strict=True)
        for call, stream, at, text in columns:
            show(
                {
                    "worker": data["worker"],
                    "function": data["function"],
                    "call": call,
                    "stream": stream,
                    "time": at,
                    "text": text,
                }
            )
        sys.stdout.flush()

    session = persistent_session()
    notices.screen.follower = take
    session.request("follow", {name: value for name, value in wanted.items() if value is not None})
    session.reader.want_background()
    ended = threading.Event()
    while not session.failed and not ended.wait(0.5):
        pass

"""`stoker serve`: an app that runs while its files are edited."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from stoker.cli.interrupts import two_step_interrupts
from stoker.cli.loading import Program, by_name, load, split_target
from stoker.cli.screen import fail, say, show_json_line
from stoker.cli.server import lent
from stoker.cli.server_requests import ask
from stoker.cli.tracebacks import called_from, describe, is_ours_alone
from stoker.client import session as sessions
from stoker.client.bundle import build_bundle
from stoker.errors import StokerError

POLL_SECONDS = 0.3  # what an editor's save may take to be noticed

Stamps = dict[Path, tuple[int, int]]


def serve(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py", help="The file that defines the app.", show_default=False)
    ],
    is_module: Annotated[bool, typer.Option("-m", help="The target is a module's name, not a file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each load.")] = False,
) -> None:
    """Run an app until Ctrl-C, and load it again whenever one of its source files changes.

    Meanwhile any program of yours may call its functions by name: stoker.Function.from_name("app", "function").
    """
    source, _ = split_target(target)
    if not is_module and not Path(source).is_file():
        load(source)  # says what is wrong
    search_path = list(sys.path)
    with two_step_interrupts("ending"), lent(), sessions.held(), ExitStack() as running:
        watched: set[Path] = set()
        while True:
            before = set(sys.modules)
            stamps = _serve_once(source, watched, running, is_module=is_module, as_json=as_json)
            changed = sorted(path.name for path, stamp in stamps.items() if _stamp(path) != stamp)
            if not as_json:
                say(f"changed: {', '.join(changed)}")
            _forget(watched, before)
            sys.path[:] = search_path


def _serve_once(source: str, watched: set[Path], running: ExitStack, *, is_module: bool, as_json: bool) -> Stamps:
    """Load and run the app until a file changes.

    What was ``running`` before answers until the new one does: a file that does not load replaces nothing.
    """
    if not is_module:
        watched.add(Path(source).resolve())
    stamps = {path: _stamp(path) for path in watched}
    with ExitStack() as fresh:
        try:
            program = load(source, is_module=is_module)
            watched |= _sources(program)
            # Those from before the load stay: what was changed meanwhile has changed.
            stamps = {**{path: _stamp(path) for path in watched}, **stamps}
            for app in program.apps:
                fresh.enter_context(app.serve())
            for app in program.used:
                fresh.enter_context(app.run())
            running.close()
            running.push(fresh.pop_all())
            _announce(program, len(watched), as_json=as_json)
        except Exception as error:  # noqa: BLE001 - whatever the user's file raises while it is being edited
            _show(error)
    _wait_for_change(stamps)
    return stamps


def _wait_for_change(stamps: Stamps) -> None:
    """Return once a file has changed and none changes any more: an editor writes in more than one step."""
    last = stamps
    while True:
        time.sleep(POLL_SECONDS)
        now = {path: _stamp(path) for path in stamps}
        if now != stamps and now == last:
            return
        last = now


def _announce(program: Program, count: int, *, as_json: bool) -> None:
    rows = [row for row in ask("apps") if row["served_as"]]
    served = {row["run_id"]: row["served_as"] for row in rows}
    runs = {app.run_id for app in program.apps}
    urls = [url for row in rows if row["run_id"] in runs for url in row["urls"].values()]
    names = [
        (served.get(app.run_id, app.name), name, found) for app in program.apps for name, found in app.functions.items()
    ]
    labels = [f"{app}.{name}" for app, name, _ in names]
    if as_json:
        show_json_line({"event": "loaded", "functions": labels, "files": count, "urls": urls})
    else:
        say(f"serving {', '.join(labels)}; watching {count} file{'s' * (count != 1)}; Ctrl-C ends")
        for url in urls:
            say(f"  {url}")
        for app, name, found in names:
            for call in by_name(app, name, found):
                say(f"  {call}")
    sys.stdout.flush()


def _show(error: Exception) -> None:
    if isinstance(error, StokerError) and is_ours_alone(error):
        fail(str(error) + called_from(error))
    else:
        print(describe(error), file=sys.stderr, flush=True)


def _sources(program: Program) -> set[Path]:
    return {path.resolve() for path in build_bundle(program.module).sources}


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)  # an editor is replacing it
    return found.st_mtime_ns, found.st_size


def _forget(watched: set[Path], before: set[str]) -> None:
    """Have the app's own modules imported anew."""
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).resolve() in watched:
            del sys.modules[name]

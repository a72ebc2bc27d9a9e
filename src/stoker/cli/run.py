"""`stoker run`: a program's local entrypoint, or one function remotely."""

from __future__ import annotations

import asyncio
import inspect
import sys
from contextlib import ExitStack, redirect_stdout, suppress
from typing import Annotated, Any, TextIO

import typer

from stoker.cli import parameters
from stoker.cli.interrupts import two_step_interrupts
from stoker.cli.loading import Program, find, load, split_target
from stoker.cli.screen import show_json, show_json_line
from stoker.client import session as sessions
from stoker.client.app import LocalEntrypoint
from stoker.client.function import Function
from stoker.client.goodbye import FLUSH_LOGS_SECONDS
from stoker.errors import StokerError

# What follows the target belongs to the user's function, `--help` included.
CONTEXT: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


def run(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="FILE.py[::NAME]", help="What to run.", show_default=False)],
    is_module: Annotated[bool, typer.Option("-m", help="The target is a module's name, not a file.")] = False,
    progress: Annotated[bool, typer.Option(help="Show progress of maps and of environments.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on stdout, and all else on stderr.")
    ] = False,
) -> None:
    """Run a program: its local entrypoint here, its functions where their app says.

    Options after the target are the entrypoint's own: `stoker run sweep.py --help` shows them. With ::NAME of a
    function, that function is called remotely and its result printed.
    """
    source, name = split_target(target)
    with two_step_interrupts(), ExitStack() as redirected:
        sys.argv = [source, *context.args]
        out = sys.stdout
        if as_json or "--json" in context.args:
            redirected.enter_context(redirect_stdout(sys.stderr))  # whatever anybody prints: stdout has the value alone
        program = load(source, is_module=is_module)
        found = find(program, name)
        if not as_json and "--json" in context.args:
            if "json" in inspect.signature(found.raw_f).parameters:
                redirected.close()  # not ours: the user's own option
            else:
                as_json = True  # ours, given after the target
                context.args.remove("--json")
        progress = _own_flag(context.args, found, progress)
        values = parameters.parse(found.raw_f, context.args, program=f"stoker run {target}")
        if values is not None:
            _run(program, found, values, progress=progress, json_to=out if as_json else None)


def _own_flag(arguments: list[str], found: LocalEntrypoint[..., Any] | Function[..., Any], progress: bool) -> bool:
    """Take our own ``--no-progress`` from behind the target, unless it is the user's."""
    if "progress" not in inspect.signature(found.raw_f).parameters:
        for flag, value in (("--no-progress", False), ("--progress", True)):
            if flag in arguments:
                arguments.remove(flag)
                progress = value
    return progress


def _run(
    program: Program,
    found: LocalEntrypoint[..., Any] | Function[..., Any],
    values: dict[str, Any],
    *,
    progress: bool,
    json_to: TextIO | None,
) -> None:
    with ExitStack() as running:
        for app in (*program.apps, *program.used):
            running.enter_context(app.run(show_progress=progress))
        if isinstance(found, Function):
            _call(found, values, json_to=json_to)
            return
        outcome = found(**values)
        if inspect.iscoroutine(outcome):
            outcome = asyncio.run(outcome)
        if json_to is not None:
            show_json(outcome, json_to)


def _call(function: Function[..., Any], values: dict[str, Any], *, json_to: TextIO | None) -> None:
    raw = inspect.unwrap(function.raw_f)
    if inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw):
        for item in function.stream(**values):
            show_json_line(item, json_to) if json_to is not None else print(item)
        return
    result = function.remote(**values)
    with suppress(StokerError, TimeoutError):
        sessions.current().request("flush", {}, timeout=FLUSH_LOGS_SECONDS)  # so that the result comes last
    if json_to is not None:
        show_json(result, json_to)
    elif result is not None:
        print(result)

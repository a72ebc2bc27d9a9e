"""The program `stoker`: its commands, its settings, and what every failure looks like."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from stoker._version import __version__
from stoker.cli import (
    apps,
    callbacks,
    calls,
    config,
    connections,
    deploy,
    doctor,
    functions,
    images,
    logs,
    run,
    serve,
    server,
    settings,
    tokens,
    workers,
)
from stoker.cli.screen import fail
from stoker.cli.tracebacks import called_from, describe, is_ours_alone, missing_here
from stoker.cli.usage import WrongUsage, check_directory
from stoker.errors import InvalidOption, StokerError

USAGE_STATUS = 2
INTERRUPTED_STATUS = 130

# Typer carries its own copy of click, under a private name: its errors are reached through a public subclass.
_USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[1])
_CLICK_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[2])

_KINDS = {"int_parsing": "an integer", "float_parsing": "a number"}

app = typer.Typer(
    name="stoker",
    help="Programmable compute for machine learning, on hardware you own.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"stoker {__version__}")
        raise typer.Exit()


@app.callback()
def prepare(
    home: Annotated[str | None, typer.Option(help="Where environments, deployments and logs are kept.")] = None,
    runtime_dir: Annotated[str | None, typer.Option(help="Where sockets and runs are.")] = None,
    node_cpus: Annotated[str | None, typer.Option(help="Cores of this machine that are Stoker's.")] = None,
    node_memory: Annotated[str | None, typer.Option(help="Memory of this machine that is Stoker's.")] = None,
    result_retention: Annotated[str | None, typer.Option(help="How long results of spawned calls are kept.")] = None,
    blobs: Annotated[
        str | None, typer.Option(help="Where the server keeps blobs: s3://bucket/prefix, gs://… or az://….")
    ] = None,
    store: Annotated[str | None, typer.Option(help="The server's store: postgresql://… (default: a file).")] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    flags = {
        "home": home,
        "runtime_dir": runtime_dir,
        "node_cpus": node_cpus,
        "node_memory": node_memory,
        "result_retention": result_retention,
        "blobs": blobs,
        "store": store,
    }
    try:
        config.resolved = settings.resolve(flags, os.environ, Path.cwd())
    except InvalidOption as error:
        raise WrongUsage(str(error)) from None
    for item in config.resolved:
        if item.is_directory:
            check_directory(item.value, said=item.said)
    settings.export(config.resolved, os.environ)


app.command("run", context_settings=run.CONTEXT)(run.run)
app.command("deploy")(deploy.deploy)
app.command("serve")(serve.serve)
app.command("logs")(logs.logs)
app.command("doctor")(doctor.doctor)
server.app.command("connect")(connections.connect)
server.app.command("disconnect")(connections.disconnect)
app.add_typer(server.app, name="server")
app.add_typer(tokens.app, name="tokens")
app.add_typer(callbacks.app, name="callbacks")
app.add_typer(apps.app, name="apps")
app.add_typer(functions.app, name="functions")
app.add_typer(calls.app, name="calls")
app.add_typer(workers.app, name="workers")
app.add_typer(images.app, name="images")
app.add_typer(config.app, name="config")


def run_program(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 (failure), 2 (wrong arguments) or 130 (Ctrl-C)."""
    try:
        status = app(args=None if arguments is None else list(arguments), standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # `stoker calls list | head`: nobody reads on, and Python would say so once more when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost loop: every failure becomes a message and a status
        return _report(error)
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
    return status if isinstance(status, int) else 0


def _report(error: Exception) -> int:
    if isinstance(error, _CLICK_ERROR):
        return _report_usage(error)
    if isinstance(error, typer.Abort):
        if isinstance(error.__context__, EOFError):  # Typer takes every EOFError for a prompt of its own that was left
            return _report(error.__context__)
        fail("Aborted.")
        return 1
    if isinstance(error, StokerError) and is_ours_alone(error):
        fail(str(error) + called_from(error))
        return USAGE_STATUS if isinstance(error, WrongUsage) else 1
    print(describe(error) + missing_here(error), file=sys.stderr)
    return 1


def _report_usage(error: Any) -> int:
    text = _name_value(error, error.format_message().strip())
    if not text:  # `stoker server` alone: its help was printed
        return USAGE_STATUS
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "stoker"
    fail(f"{text}\nSee `{where} --help`." if isinstance(error, _USAGE_ERROR) else text)
    return int(error.exit_code)


def _name_value(error: Any, text: str) -> str:
    """Say which value was wrong, where Typer leaves that to the validation under it."""
    found: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if not found or found[0].get("type") not in _KINDS or getattr(error, "param", None) is None:
        return text
    return f"{error.param.opts[0]} {found[0]['input']!r} is not {_KINDS[found[0]['type']]}."

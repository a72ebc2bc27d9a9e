"""`stoker server connect` and `disconnect`: which server the programs of this user use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from stoker.cli.screen import say, show_json
from stoker.cli.server_requests import TIMEOUT_SECONDS
from stoker.client.endpoints import (
    CA_VARIABLE,
    SavedConnection,
    connection_file,
    forget_connection,
    save_connection,
)
from stoker.client.session import Session
from stoker.errors import InvalidRequest
from stoker.transport.addresses import parse_address
from stoker.transport.current import FINGERPRINT_VARIABLE, SERVER_VARIABLE, TOKEN_VARIABLE
from stoker.transport.tls import parse_fingerprint

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def connect(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="stoker://HOST:PORT, as the server shows it.")],
    token: Annotated[str | None, typer.Option(help="Its token; else STOKER_TOKEN, else it is asked for.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="sha256:…", help="The fingerprint of a certificate of the server's own.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="File of the CA that vouches for the server, as PEM.")] = None,
    as_json: AsJson = False,
) -> None:
    """Use a server elsewhere from now on: tries it, then saves it for every program of yours on this machine."""
    if fingerprint is not None:
        parse_fingerprint(fingerprint, option="--fingerprint ")
    wanted = SavedConnection(
        server=str(parse_address(address, option="ADDRESS")),
        token=token or os.environ.get(TOKEN_VARIABLE) or _asked_for(),
        fingerprint=fingerprint or os.environ.get(FINGERPRINT_VARIABLE, ""),
        ca=str(ca.absolute()) if ca is not None else os.environ.get(CA_VARIABLE, ""),
    )
    session = Session(wanted.endpoint())
    try:
        version = session.request("version", timeout=TIMEOUT_SECONDS)["version"]
    finally:
        session.close()
    path = save_connection(wanted)
    if as_json:
        show_json({"server": wanted.server, "version": version, "file": str(path)})
        return
    say(f"Programs use the server at {wanted.server} (version {version}) from now on.\n  saved in {path}")
    if named := os.environ.get(SERVER_VARIABLE):
        say(f"But {SERVER_VARIABLE} is set here ({named}) and goes before it: unset it.")


def disconnect(as_json: AsJson = False) -> None:
    """Forget the server elsewhere: programs use the one on this machine again, or one of their own."""
    there_was = forget_connection()
    if as_json:
        show_json({"disconnected": there_was})
    elif there_was:
        say("Programs use this machine's server again, or start their own.")
    else:
        say(f"No connection is saved ({connection_file()}).")


def _asked_for() -> str:
    if not os.isatty(0):
        raise InvalidRequest("No token was given. Give it with --token, or as STOKER_TOKEN.")
    found: str = typer.prompt("Token", hide_input=True)
    return found

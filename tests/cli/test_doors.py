"""A server that listens, the tokens for it, and programs that are led to it: by the commands of people."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.client import session as sessions
from stoker.client.endpoints import connection_file
from stoker.images.worker_path import ensure_worker_path
from tests.images.callers_venv import make_venv

from .conftest import Command, Outcome


@pytest.fixture
def started(
    own_home: Path, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, stoker_command: Command
) -> Iterator[dict[str, Any]]:
    """Start a server with a door that wants TLS; return what the command says of it."""
    environment = dict(os.environ)
    done = stoker_command("server", "start", "--listen", "0.0.0.0:0", "--json")
    os.environ.clear()
    os.environ.update(environment)  # flags are settings of their command only
    assert done.status == 0, done.err
    yield done.json
    sessions.close()
    assert stoker_command("server", "stop").status == 0


def test_from_the_start_to_the_end(started: dict[str, Any], stoker_command: Command) -> None:
    (door,) = started["doors"]
    assert door["tls"]
    port = door["address"].rpartition(":")[2]
    address, pin = f"stoker://127.0.0.1:{port}", door["fingerprint"]

    for arguments, said in (
        (("--token", started["token"]), "TLS only"),
        (("--token", started["token"], "--fingerprint", "sha256:" + "0" * 64), "which is pinned here"),
        (("--token", "wrong", "--fingerprint", pin), "does not know the token"),
        (("--fingerprint", pin), "No token was given"),
    ):
        done = stoker_command("server", "connect", address, *arguments)
        assert (done.status, said in done.err) == (1, True), done.err
    assert not connection_file().exists()

    done = stoker_command("server", "connect", address, "--token", started["token"], "--fingerprint", pin)
    assert done.status == 0, done.err
    assert address in done.out
    shown = stoker_command("server", "status")
    assert f"used through  {address}" in shown.out
    assert pin in shown.out
    assert address in stoker_command("doctor", "--json").out
    assert stoker_command("apps", "list", "--json").json == []
    sessions.close()

    made = stoker_command("tokens", "create", "laptop").out.strip()
    assert made.startswith("stoker-")
    rows = {row["name"]: row for row in stoker_command("tokens", "list", "--json").json}
    assert rows.keys() == {"first", "laptop"}
    assert rows["first"]["used"]
    assert made not in stoker_command("tokens", "list").out
    assert stoker_command("tokens", "revoke", "first").status == 0
    assert "was revoked" in stoker_command("apps", "list").err
    assert "no token 'first'" in stoker_command("tokens", "revoke", "first").err
    assert stoker_command("server", "disconnect", "--json").json == {"disconnected": True}
    assert stoker_command("server", "disconnect", "--json").json == {"disconnected": False}
    sessions.close()
    assert "used through" not in stoker_command("server", "status").out


MOVES_AWAY = """
import os, sys
import stoker

app = stoker.App("moved")

@app.function
def where(name):
    from importlib import import_module
    from importlib.metadata import version
    lab = import_module(name)
    return lab.VERSION, version("their.tables"), lab.__file__, sys.prefix

if __name__ == "__main__":
    with app.run():
        os.rename(sys.argv[1], sys.argv[1] + "-gone")
        print(*where.remote("their_lab"), sep="\\n")
"""


def test_a_program_whose_environment_the_server_does_not_have(
    own_home: Path, runtime_dir: Path, tmp_path: Path, stoker_command: Command
) -> None:
    venv = make_venv(tmp_path / "theirs", sys.executable)
    script = tmp_path / "program" / "moved.py"
    script.parent.mkdir()
    script.write_text(MOVES_AWAY)
    try:
        started = stoker_command("server", "start", "--listen", "127.0.0.1:0", "--json").json
        os.environ.pop("STOKER_LISTEN", None)
        variables = {
            "STOKER_SERVER": "stoker://" + started["doors"][0]["address"].rpartition("/")[2],
            "STOKER_TOKEN": started["token"],
            "PYTHONPATH": str(ensure_worker_path(tmp_path)),
        }
        done = subprocess.run(
            [venv.python, str(script), str(venv.root)],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        assert stoker_command("server", "stop").status == 0
    assert done.returncode == 0, done.stderr
    lab, tables, file, prefix = done.stdout.split()
    assert (lab, tables) == ("0.3.dev1", "1.2")
    assert prefix.startswith(str(own_home / "environments"))
    assert file.startswith(prefix)


def _start_again(stoker_command: Command, *options: str) -> Outcome:
    environment = dict(os.environ)
    done = stoker_command("server", "start", *options)
    os.environ.clear()
    os.environ.update(environment)  # flags are settings of their command only
    return done


def test_a_server_that_runs_without_the_door(own_home: Path, stoker_command: Command) -> None:
    try:
        assert stoker_command("server", "start").status == 0
        for options, said in (
            (["--listen", "127.0.0.1:0"], ", without --listen. Stop it"),
            (["--http", "127.0.0.1:0"], ", with --http off."),
            (["--traces", "otlp"], ", with --traces off."),
            (["--http", "127.0.0.1:0", "--metrics-public"], ", with --http off and without --metrics-public."),
            (["--foreground"], ", in the background."),
        ):
            done = _start_again(stoker_command, *options)
            assert (done.status, said in done.err) == (1, True), done.err
        assert "It runs already" in _start_again(stoker_command, "--traces", "off", "--http", "off").out
        assert "TLS" not in stoker_command("server", "status").out
    finally:
        sessions.close()
        stoker_command("server", "stop")


def test_an_address_that_cannot_be_listened_at(own_home: Path, stoker_command: Command) -> None:
    done = stoker_command("server", "start", "--listen", "192.0.2.123:7411")
    os.environ.pop("STOKER_LISTEN", None)
    assert done.status == 1
    assert "cannot listen at stoker://192.0.2.123:7411" in done.err
    assert "is no address" in stoker_command("server", "start", "--listen", "here").err


def test_tokens_without_a_server(own_home: Path, stoker_command: Command) -> None:
    done = stoker_command("tokens", "list")
    assert done.status == 1
    assert "No server of yours runs on this machine" in done.err

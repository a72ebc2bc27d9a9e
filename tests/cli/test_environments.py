"""What `stoker deploy` builds, without a server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import stoker
from stoker import paths
from stoker.cli import environments
from stoker.client.registration import Shipment


@pytest.fixture
def status(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    told = {"engine": "local", "state_dir": str(paths.server_home().resolve())}
    monkeypatch.setattr(environments, "ask", lambda verb: told)
    return told


def _prepare(image: stoker.Image, *, builds: bool = False) -> None:
    function: Any = SimpleNamespace(label="a.f", image=Shipment().image(image), app="a")
    environments.prepare([function], {}, source="a.py", builds=builds, silent=False)


BUILT = stoker.Image.local().add_local_python_source("tests")
WAITS = "the first call waits until the environment is built"
ELSEWHERE = "the environment is built on a node"


def test_a_home_behind_a_link_is_the_servers(
    status: dict[str, str], own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "link").symlink_to(own_home)
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "link"))
    _prepare(BUILT)
    assert WAITS in capsys.readouterr().err


def test_a_socket_leads_to_this_machine_and_an_address_may_not(
    status: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("STOKER_SERVER", str(paths.server_runtime() / "server.sock"))
    _prepare(BUILT)
    assert WAITS in capsys.readouterr().err
    monkeypatch.setenv("STOKER_SERVER", "stoker://127.0.0.1:7411")
    _prepare(BUILT)
    assert ELSEWHERE in capsys.readouterr().err
    monkeypatch.delenv("STOKER_SERVER")
    status["state_dir"] = "/somewhere/else"
    _prepare(BUILT)
    assert ELSEWHERE in capsys.readouterr().err


def test_variables_are_nothing_to_build(status: dict[str, str], capsys: Any) -> None:
    _prepare(stoker.Image.local().env({"A": "1"}))
    status["engine"] = "ray"
    _prepare(stoker.Image.local().env({"A": "1"}))
    assert capsys.readouterr().err == ""


def test_what_a_machine_lacks_is_told_before_anything_is_deployed(status: dict[str, str], capsys: Any) -> None:
    with pytest.raises(typer.Exit):
        _prepare(stoker.Image.local().apt_install("no-such-package-of-debian"), builds=True)
    assert capsys.readouterr().err.endswith("Nothing was deployed.\n")

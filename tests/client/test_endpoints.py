"""Which server a program uses, and what is said where its address cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stoker.client import endpoints
from stoker.client.connection import SocketEndpoint
from stoker.client.endpoints import SavedConnection, TcpEndpoint
from stoker.errors import ConnectionFailed, InvalidOption, StokerError
from stoker.transport.addresses import Address

PIN = "sha256:" + "ab" * 32


@pytest.fixture(autouse=True)
def own_connections(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in endpoints.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_configured() -> None:
    assert endpoints.configured_endpoint() is None
    assert endpoints.local_endpoint() is None
    assert not endpoints.forget_connection()


def test_the_variables_go_before_what_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    path = endpoints.save_connection(SavedConnection("stoker://saved:1", "t", PIN))
    assert path.stat().st_mode & 0o777 == 0o600
    assert endpoints.configured_endpoint() == TcpEndpoint(Address("saved", 1), "t", PIN)
    monkeypatch.setenv("STOKER_SERVER", "stoker://[fd00::1]:7411")
    monkeypatch.setenv("STOKER_TOKEN", "secret")
    monkeypatch.setenv("STOKER_CA", "/ca.pem")
    assert endpoints.configured_endpoint() == TcpEndpoint(Address("fd00::1", 7411), "secret", "", "/ca.pem")
    monkeypatch.setenv("STOKER_SERVER", "/run/server.sock")
    assert endpoints.configured_endpoint() == SocketEndpoint("/run/server.sock", "secret")
    monkeypatch.delenv("STOKER_SERVER")
    assert endpoints.forget_connection()
    assert endpoints.configured_endpoint() is None


def test_a_saved_connection_is_replaced(own_home: Path) -> None:
    for number in (1, 2):
        endpoints.save_connection(SavedConnection(f"stoker://saved:{number}", "t"))
    assert endpoints.saved_connection() == SavedConnection("stoker://saved:2", "t")
    assert os.listdir(own_home) == ["connection.json"]  # noqa: PTH208


@pytest.mark.parametrize("named", ["gpu-1:7411", "http://gpu-1", "server.sock", "stoker://gpu-1"])
def test_a_server_that_cannot_be_read(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_SERVER", named)
    with pytest.raises(InvalidOption, match=r"STOKER_SERVER='.*stoker://HOST:PORT"):
        endpoints.configured_endpoint()


@pytest.mark.parametrize("text", ["{", "[]", '{"server": "stoker://a:1"}', '{"server": 1, "extra": 2}'])
def test_a_saved_connection_that_is_damaged(text: str) -> None:
    endpoints.connection_file().write_text(text)
    with pytest.raises(StokerError, match=r"connection\.json cannot be read.*stoker server disconnect"):
        endpoints.configured_endpoint()


def test_nobody_answers() -> None:
    with pytest.raises(ConnectionFailed, match=r"No server answers at stoker://127\.0\.0\.1:1: Connection refused"):
        TcpEndpoint(Address("127.0.0.1", 1), "t").connect(timeout=5)
    with pytest.raises(ConnectionFailed, match=r"The host of stoker://nowhere\.invalid:1 is not known"):
        TcpEndpoint(Address("nowhere.invalid", 1), "t").connect(timeout=5)
    with pytest.raises(InvalidOption, match=r"is no fingerprint\. It is sha256"):
        TcpEndpoint(Address("127.0.0.1", 1), "t", "42f1").connect(timeout=5)

from __future__ import annotations

import os
import signal

import pytest

import stoker
from stoker import paths
from stoker.client import embedded, notices
from stoker.client import session as sessions
from stoker.client.embedded import EmbeddedServer
from stoker.client.session import Session
from tests.waiting import wait_until


def test_a_server_of_ones_own_starts_answers_and_leaves_nothing() -> None:
    session = Session(EmbeddedServer.start())
    endpoint = session.endpoint
    assert isinstance(endpoint, EmbeddedServer)
    assert session.request("status")["pid"] == endpoint.pid
    assert embedded.segments_of(endpoint.directory).exists()
    session.close()
    assert not endpoint.directory.exists()
    assert not embedded.segments_of(endpoint.directory).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(endpoint.pid, 0)


def test_a_killed_server_is_started_again_on_the_same_socket() -> None:
    session = Session(EmbeddedServer.start())
    endpoint = session.endpoint
    assert isinstance(endpoint, EmbeddedServer)
    first = endpoint.pid
    os.kill(first, signal.SIGKILL)
    assert session.request("status", timeout=30)["pid"] == endpoint.pid != first
    session.close()


def test_a_server_that_keeps_ending_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedServer.start()
    monkeypatch.setattr(EmbeddedServer, "_spawn", lambda self: self._starts.append(0.0))
    monkeypatch.setattr("stoker.client.embedded.time.monotonic", lambda: 1.0)
    process = server._process
    assert process is not None
    process.terminate()
    process.wait()
    for _ in range(embedded.RESTARTS_PER_MINUTE):
        server.revive()
    with pytest.raises(stoker.ConnectionFailed, match="is not started again"):
        server.revive()
    monkeypatch.undo()
    server.end(timeout=1)


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        EmbeddedServer, "_command", lambda self, fd: ["/bin/sh", "-c", "echo no such module >&2; exit 3"]
    )
    with pytest.raises(stoker.ConnectionFailed, match=r"(?s)status 3.*no such module|gave no sign.*no such module"):
        EmbeddedServer.start()
    assert list(paths.runs().iterdir()) == []


def test_what_a_killed_program_left_is_swept() -> None:
    left = paths.private_dir(paths.runs() / "r-left")
    segments = embedded.segments_of(left)
    segments.mkdir(mode=0o700)
    (left / "lock").touch()
    held = paths.private_dir(paths.runs() / "r-held")
    lock = embedded._lock_run(held)
    embedded.sweep()
    assert not left.exists()
    assert not segments.exists()
    assert held.exists()
    os.close(lock)
    embedded.sweep()
    assert not held.exists()


def test_a_worker_goes_to_the_server_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_SERVER", "/nowhere/server.sock")
    monkeypatch.setenv("STOKER_TOKEN", "secret")
    endpoint = sessions.find_endpoint()
    assert (endpoint.path, endpoint.token) == ("/nowhere/server.sock", "secret")


def test_unfinished_spawns_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(notices, "warn", said.append)
    session = Session(EmbeddedServer.start())
    from stoker.client.calls import Pending, Route, Slot

    session.connection.calls.add_one(Pending("c-1.1", Route("k", "a.f", detached=True), Slot()))
    session.close()
    assert "stoker server start" in said[0]
    wait_until(lambda: list(paths.runs().iterdir()) == [])

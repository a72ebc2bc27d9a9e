"""Greetings: who is let in, who is told why not, and that nobody's bytes harm the others."""

from __future__ import annotations

import asyncio
import os
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker._version import PROTOCOL_VERSION, __version__
from stoker.errors import ConnectionFailed, PermissionDenied, ProtocolError, VersionMismatch
from stoker.protocol import messages as m
from stoker.protocol.frames import GREETING_MAX_BYTES, PREFIX, encode_prefix
from stoker.server import link as links
from stoker.server.link import Link
from stoker.transport.sockets import FrameSocket, greet
from stoker.types import Growth
from tests.waiting import wait_until

from .harness import Peer, Running, spec


def rejected(frames: FrameSocket) -> m.Rejected:
    """Return why a peer was turned away, once the connection is closed."""
    answer = frames.receive().message
    assert isinstance(answer, m.Rejected)
    with pytest.raises(ConnectionFailed):
        frames.receive()
    return answer


@pytest.mark.parametrize("role", ["worker", "control"])
@pytest.mark.parametrize("token", ["", "w1-1.", "w1-1." + "0" * 64, "w1-1"])
def test_a_worker_with_a_wrong_token(running: Running, role: str, token: str) -> None:
    with pytest.raises(PermissionDenied, match="token"):
        greet(running.connect(), role=role, name="w1-1", token=token)


def test_a_worker_with_the_token_of_another(running: Running) -> None:
    with pytest.raises(PermissionDenied, match="not that of worker 'w1-2'"):
        greet(running.connect(), role="worker", name="w1-2", token=running.server.tokens.token("w1-1"))


def test_a_client_with_a_wrong_token(running: Running) -> None:
    with pytest.raises(PermissionDenied):
        running.client(token="guessed")
    assert "c-1" not in running.server.sessions


def test_another_version_is_told_both(running: Running) -> None:
    frames = running.connect()
    frames.send(m.Hello("client", "c-1", "0.0.9"))
    answer = rejected(frames)
    assert answer.type_name == VersionMismatch.__name__
    assert "0.0.9" in answer.message
    assert __version__ in answer.message
    patched = ".".join([*__version__.split(".")[:2], "99"])
    frames = running.connect()
    frames.send(m.Hello("client", "c-1", patched))
    assert isinstance(frames.receive().message, m.Welcome), "patches of one minor version go together"


def test_another_protocol_is_told_both(running: Running) -> None:
    frames = running.connect()
    frames.send_frame(PREFIX.pack(b"St", PROTOCOL_VERSION + 1, 1, 2, 0) + b"{}")
    answer = rejected(frames)
    assert f"protocol {PROTOCOL_VERSION + 1}" in answer.message
    assert f"protocol {PROTOCOL_VERSION}" in answer.message


def test_an_unknown_role(running: Running) -> None:
    with pytest.raises(PermissionDenied, match="no role 'king'"):
        greet(running.connect(), role="king", name="k")


def test_another_user_is_turned_away_and_its_token_is_not(running: Running) -> None:
    def greeted(role: str, token: str = "") -> object:
        link = Link(running.server, set())
        link.uid = os.getuid() + 1
        return running.server.greeted(link, m.Hello(role, "c-9", __version__, token))

    for role in ("client", "agent"):
        with pytest.raises(PermissionDenied, match="own user"):
            running.on_loop(partial(greeted, role))
    assert "c-9" not in running.server.sessions
    token = running.server.tokens.token("w1-1")
    assert running.on_loop(lambda: greeted("client", token))


def test_the_session_of_somebody_else(running: Running) -> None:
    running.client("c-1")
    with pytest.raises(PermissionDenied, match="somebody else"):
        running.client("c-1", token=running.server.tokens.token("w1-1"))


@pytest.mark.parametrize("message", [m.Ack(1), m.Submit("k", [], []), m.Welcome("", "", 0)])
def test_the_first_message_must_be_a_greeting(running: Running, message: object) -> None:
    frames = running.connect()
    frames.send(message)
    assert "not a greeting" in rejected(frames).message


def test_nobody_says_more_than_a_greeting_before_it_is_known(running: Running) -> None:
    frames = running.connect()
    frames.send_frame(encode_prefix(1, GREETING_MAX_BYTES + 1, 0))
    assert str(GREETING_MAX_BYTES) in rejected(frames).message


def test_what_came_with_the_greeting_is_heard(running: Running) -> None:
    frames = running.connect()
    frames.send(m.Hello("client", "c-1", __version__))
    frames.send(m.Request(1, "status"))
    assert isinstance(frames.receive().message, m.Welcome)
    assert frames.receive().message.id == 1


def test_nothing_is_heard_from_who_was_turned_away(running: Running) -> None:
    frames = running.connect()
    greeting = m.Hello("client", "c-1", "0.0.9")
    frames.send(greeting)
    try:
        frames.send(m.Hello("client", "c-1", __version__))
    except ConnectionFailed:
        pass  # closed already
    assert rejected(frames).type_name == "VersionMismatch"
    wait_until(lambda: not running.server.links, message="the connection is forgotten")
    assert not any(session.link for session in running.server.sessions.values())


def test_who_says_nothing_is_shown_the_door(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    greeted = running.client()
    monkeypatch.setattr(links, "GREETING_SECONDS", 0.05)
    silent = Peer(running.connect())
    slow = running.connect()
    slow.send_frame(encode_prefix(1, 100, 0) + b"{")
    assert silent.is_closed()
    assert Peer(slow).is_closed()
    assert greeted.ask("status")["mode"] == "persistent"


def test_a_welcome_says_where_payloads_are(running: Running) -> None:
    welcome = running.client().welcome
    assert welcome is not None
    assert (welcome.segments, welcome.spill) == (str(running.config.segments), str(running.config.spill))
    assert (welcome.server, welcome.term) == ("run", 1)
    assert not welcome.freeze
    running.server.engine.growth = Growth.BY_ITSELF  # nodes on other machines may come
    again = running.client("c-2").welcome
    assert again is not None
    assert again.freeze


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=200), st.booleans(), st.booleans())
def test_garbage_closes_its_connection_only(running: Running, data: bytes, known: bool, framed: bool) -> None:
    frames = running.client("c-fuzz").frames if known else running.connect()
    kind = data[0]
    payload = encode_prefix(kind, len(data), 0) + data if framed else b"\0" + data + bytes(16)
    frames.send_frame(payload)
    try:
        answer = frames.receive().message
    except ConnectionFailed:
        answer = m.Rejected("ProtocolError", "")
    assert answer.type_name == ProtocolError.__name__
    frames.close()
    other = running.client("c-sane")
    assert other.ask("status")["workers"] == 0
    other.close()


def test_a_connection_that_breaks_in_a_frame_is_forgotten(running: Running) -> None:
    client = running.client()
    client.frames.send_frame(encode_prefix(10, 100, 1 << 20) + b"{")
    client.close()
    wait_until(lambda: not running.server.links, message="the connection is forgotten")


def test_an_answer_to_who_has_left_is_dropped(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        asked.set()
        await go_on.wait()

    monkeypatch.setattr(running.engine, "flush_logs", slow)
    client = running.client()
    client.send(m.Request(1, "flush"))
    wait_until(lambda: running.on_loop(asked.is_set), message="the request was heard")
    client.close()
    wait_until(lambda: not running.server.links, message="the server saw it go")
    running.on_loop(go_on.set)
    other = running.client("c-2")
    assert other.ask("status")["mode"] == "persistent"
    assert running.on_loop(lambda: len(running.server.links)) == 1
    assert running.on_loop(lambda: list(running.server.unsent)) == []


def test_a_reader_that_does_not_read_is_not_read_from(running: Running) -> None:
    """What it asks for is not queued here without end."""
    client = running.client()
    running.register(client, *[spec(f"f{n}") for n in range(300)])
    client.frames.settimeout(0.3)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 100_000:
            client.send(m.Request(sent, "functions"))
            sent += 1
    other = running.client("c-2")
    assert other.ask("status")["mode"] == "persistent"
    client.frames.settimeout(10.0)

"""Tokens that are for one app: what a program that comes over TCP with one may do, and how often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stoker.core.rate_limits import Rate
from stoker.errors import ConnectionFailed, InvalidOption, InvalidRequest, NotFound, PermissionDenied
from stoker.protocol import messages as m
from stoker.server import token_limits
from stoker.transport.addresses import Address
from tests.waiting import wait_until

from .harness import Peer, Running, spec


@pytest.fixture
def plain(start: Callable[..., Running]) -> Running:
    return start(listen=Address("127.0.0.1", 0))


@pytest.fixture
def keys(plain: Running) -> dict[str, str]:
    """Functions of this machine's own user, who is not limited."""
    return plain.register(plain.client("c-owner"), spec("f", max_workers=1), spec("g"))


def made(plain: Running, name: str, **limits: Any) -> str:
    return plain.on_loop(lambda: plain.server.client_tokens.create(name, **limits))[1]


def test_a_token_for_an_app_is_let_in_over_tcp_only_where_it_was_made_for_that(plain: Running) -> None:
    with pytest.raises(PermissionDenied, match=r"over HTTP.*--app app --python.*pickled"):
        plain.remote(token=made(plain, "web", app="app"))
    plain.remote(token=made(plain, "both", app="app", python=True))


def test_it_calls_its_app_and_nothing_else(plain: Running, keys: dict[str, str]) -> None:
    own = plain.remote("c-own", token=made(plain, "own", app="app", function="f", python=True))
    own.submit(keys["f"], ["c-own.1"])
    worker = plain.worker()
    assert worker.leases.get(m.Lease).ids == ["c-own.1"]
    own.submit(keys["g"], ["c-own.2"])
    refused = own.get(m.RefusedCalls)
    assert refused.ids == ["c-own.2"] and refused.error.type_name == "PermissionDenied"
    assert "'own' is for app.f only: it may not call app.g" in refused.error.message


@pytest.mark.parametrize("verb", ["register", "deploy", "undeploy", "status", "logs", "calls", "apps", "follow"])
def test_it_does_not_allow_what_is_no_calling(plain: Running, verb: str) -> None:
    own = plain.remote(token=made(plain, "own", app="app", python=True))
    with pytest.raises(
        PermissionDenied, match=f"'own' is for calling app 'app' only: it does not allow this \\('{verb}'"
    ):
        own.ask(verb)


def test_files_of_the_servers_machine_are_named_to_nobody_elsewhere(plain: Running) -> None:
    assert plain.client().ask("status")["started_with"]["engine"] == "local"
    assert plain.remote("c-far", token=made(plain, "all")).ask("status")["started_with"] == {}


def test_it_makes_no_tokens(plain: Running) -> None:
    own = plain.remote(token=made(plain, "own", app="app", python=True))
    with pytest.raises(PermissionDenied, match="own machine only"):
        own.ask("token_create", name="more")


def test_other_apps_and_their_calls_are_as_if_they_were_not_there(plain: Running, keys: dict[str, str]) -> None:
    owner = plain.client("c-other")
    owner.submit(keys["g"], ["c-other.1"], detached=True)
    owner.get(m.Accepted)
    own = plain.remote(token=made(plain, "own", app="app", function="f", python=True))
    with pytest.raises(PermissionDenied, match="may not call nothing"):
        own.ask("lookup", app="nothing", name="f")
    with pytest.raises(NotFound, match=r"no call c-other\.1 of app\.f"):
        own.ask("call", id="c-other.1")
    with pytest.raises(NotFound, match=r"no call c-oth of app\.f"):
        own.ask("call", id="c-oth")
    for verb, asked in (("call", {"id": "c-o"}), ("cancel", {"ids": ["c-o"], "prefixes": True})):
        with pytest.raises(NotFound, match=r"no call c-o of app\.f here\. Write its whole id"):
            own.ask(verb, **asked)
    plain.on_loop(
        lambda: plain.server.web_records.answered("h-gone.1", "POST", b"/app/g", 200, request_id=b"of-somebody")
    )
    with pytest.raises(NotFound, match=r"no call of-somebody of app\.f"):
        own.ask("call", id="of-somebody")
    assert own.ask("cancel", ids=["c-other.1"]) == {"cancelled": []}
    own.send(m.Watch(["c-other.1"]))
    assert own.get(m.RefusedCalls).error.type_name == "NotFound"
    own.send(m.Cancel(["c-other.1"], "user"))
    assert owner.ask("call", id="c-other.1")["state"] == "queued"


def test_calls_over_its_rate_are_refused_with_when_to_come_again(plain: Running, keys: dict[str, str]) -> None:
    own = plain.remote("c-own", token=made(plain, "own", rate=Rate.parse("3/h")))
    own.submit(keys["f"], ["c-own.1", "c-own.2"], b"a", b"b")
    own.submit(keys["f"], ["c-own.3", "c-own.4"], b"c", b"d")
    refused = own.get(m.RefusedCalls)
    assert (refused.ids, refused.error.type_name) == (["c-own.4"], "RateLimited")
    assert 1190 < refused.error.fields["retry_after"] <= 1200
    assert "3/h" in refused.error.message


def test_what_the_server_has_already_is_not_counted_again_and_nothing_else_is_free(
    plain: Running, keys: dict[str, str]
) -> None:
    text = made(plain, "own", rate=Rate.parse("2/h"))
    first = plain.remote("c-own", token=text)
    first.submit(keys["f"], ["c-own.1", "c-own.2"], b"a", b"b")
    plain.worker().leases.get(m.Lease)
    again = plain.remote("c-own", token=text)  # it says, as after a restart, that it may have been here before
    again.submit(keys["f"], ["c-own.1", "c-own.2", "c-own.3"], b"a", b"b", b"c")
    assert again.get(m.RefusedCalls).ids == ["c-own.3"]


def test_an_expired_token_is_shown_out(plain: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_limits, "EXPIRY_SWEEP_SECONDS", 0.01)
    text = made(plain, "brief", expires_in=3600.0)
    peer = plain.remote("c-1", token=text)
    there = plain.server.client_tokens

    def gone() -> bool:
        plain.on_loop(lambda: setattr(there, "_clock", lambda: 4e9))
        return not any(session.holder for session in plain.server.sessions.values())

    wait_until(gone, message="its session is over")
    with pytest.raises((PermissionDenied, ConnectionFailed)):
        while True:
            peer.get(m.Rejected)
    with pytest.raises(PermissionDenied, match="has expired"):
        plain.remote("c-2", token=text)
    assert plain.client().ask("tokens")[0]["expires"]


def test_what_is_asked_for_when_a_token_is_made(plain: Running, keys: dict[str, str]) -> None:
    owner: Peer = plain.client("c-1")
    token = owner.ask("token_create", name="a", app="app", function="f", rate="10/s", burst=2, expires=60.0)
    assert (token["app"], token["function"], token["rate"], token["python"]) == ("app", "f", "10/s, 2 at once", False)
    assert token["expires"] == pytest.approx(token["created"] + 60)
    assert "No app 'app'" in token["note"], "a run has no name that others could call it by"
    for wrong, error in (
        ({"function": "f"}, InvalidRequest),
        ({"python": True}, InvalidRequest),
        ({"app": "app", "function": "Class.method"}, InvalidRequest),
        ({"rate": "often"}, InvalidOption),
        ({"rate": "1/s", "burst": 0}, InvalidOption),
        ({"expires": -1.0}, InvalidRequest),
        ({"expires": 1e12}, InvalidRequest),
    ):
        with pytest.raises(error):
            owner.ask("token_create", name="b", **wrong)
    assert [row["name"] for row in owner.ask("tokens")] == ["a"]

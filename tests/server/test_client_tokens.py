"""Tokens are shown once, kept as digests, and known again after a restart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.rate_limits import Rate
from stoker.errors import InvalidRequest, NotFound, PermissionDenied, StoreError
from stoker.server.client_tokens import SAVE_USE_SECONDS, ClientTokens


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def test_a_token_is_known_again_and_its_secret_is_nowhere(path: Path, clock: Clock) -> None:
    token, text = ClientTokens(path, clock=clock).create("laptop")
    assert path.stat().st_mode & 0o777 == 0o600
    assert text.split("-", 2)[2] not in path.read_text()
    again = ClientTokens(path, clock=clock)
    assert again.check(text).id == token.id
    (row,) = again.rows()
    assert (row["id"], row["name"], row["created"], row["used"]) == (token.id, "laptop", 1000.0, 1000.0)


def test_what_is_no_token(path: Path) -> None:
    tokens = ClientTokens(path)
    _, text = tokens.create("laptop")
    wrong = [
        text[:-1],
        text + "a",
        text.upper(),
        "stoker",
        "stoker-",
        "x" * 1000,
        "stoker-00000000-x",
        "\udc80",
        "w1.mac",
    ]
    for guess in wrong:
        with pytest.raises(PermissionDenied, match="does not know the token"):
            tokens.check(guess)
    with pytest.raises(PermissionDenied, match=r"wants a token over TCP.*stoker tokens create"):
        tokens.check("")


def test_a_revoked_token_is_nobodys_by_name_or_id(path: Path) -> None:
    tokens = ClientTokens(path)
    _, one = tokens.create("one")
    other, two = tokens.create("two")
    tokens.revoke("one")
    tokens.revoke(other.id)
    for text in (one, two):
        with pytest.raises(PermissionDenied):
            tokens.check(text)
    assert ClientTokens(path).rows() == []
    with pytest.raises(NotFound, match="no token 'one'"):
        tokens.revoke("one")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 65])
def test_names_that_are_none(path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="is no name of a token"):
        ClientTokens(path).create(name)


def test_a_name_is_given_once(path: Path) -> None:
    tokens = ClientTokens(path)
    tokens.create("one")
    with pytest.raises(InvalidRequest, match="a token 'one' already"):
        tokens.create("one")


def test_the_last_use_is_written_down_now_and_then_and_at_the_end(path: Path, clock: Clock) -> None:
    def kept() -> object:
        return ClientTokens(path).rows()[0]["used"]

    tokens = ClientTokens(path, clock=clock)
    _, text = tokens.create("one")
    clock.now += 1
    tokens.check(text)
    assert kept() is None
    clock.now += SAVE_USE_SECONDS
    tokens.check(text)
    assert kept() == clock.now
    clock.now += 1
    tokens.check(text)
    tokens.close()
    assert kept() == clock.now


def test_a_damaged_file_is_said_and_nobody_is_let_in(path: Path) -> None:
    for text in ("{", '[{"id": 1}]', '{"a": 1}'):
        path.write_text(text)
        with pytest.raises(StoreError, match=r"tokens\.json cannot be read"):
            ClientTokens(path)


def test_a_token_that_cannot_be_kept_is_not_given(path: Path) -> None:
    tokens = ClientTokens(path)
    path.mkdir()
    with pytest.raises(StoreError, match="could not be written"):
        tokens.create("one")
    assert len(tokens) == 0


def test_limits_are_kept_and_those_of_older_files_are_none(path: Path, clock: Clock) -> None:
    rate = Rate.parse("10/s", burst=3)
    token, text = ClientTokens(path, clock=clock).create("a", app="shop", function="f", rate=rate, expires_in=10.0)
    again = ClientTokens(path, clock=clock)
    assert again.check(text) == replace(token, used=1000.0)
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{key: rows[0][key] for key in ("id", "name", "digest", "created", "used")}]))
    older = ClientTokens(path, clock=clock).check(text)
    assert (older.is_limited, older.rate, older.expires) == (False, None, None)


def test_an_expired_token_is_told_so_only_to_who_has_it(path: Path, clock: Clock) -> None:
    tokens = ClientTokens(path, clock=clock)
    token, text = tokens.create("a", expires_in=10.0)
    clock.now += 9.9
    tokens.check(text)
    assert tokens.expired() == set()
    clock.now += 0.1
    with pytest.raises(PermissionDenied, match="'a' has expired"):
        tokens.check(text)
    with pytest.raises(PermissionDenied, match="does not know the token"):
        tokens.check(text[:-1])
    assert tokens.expired() == {token.id}

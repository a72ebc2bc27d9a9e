"""Workers' tokens: derived from one kept secret, worth nothing without it."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import PermissionDenied
from stoker.server.tokens import WorkerTokens


def test_the_secret_is_kept_in_a_file_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "worker.secret"
    made = WorkerTokens.kept_in(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_bytes()) == 32
    assert WorkerTokens.kept_in(path).token("w1-1") == made.token("w1-1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["worker.secret"]


def test_two_servers_have_two_secrets(tmp_path: Path) -> None:
    one, other = WorkerTokens.kept_in(tmp_path / "a"), WorkerTokens.kept_in(tmp_path / "b")
    with pytest.raises(PermissionDenied):
        other.worker_of(one.token("w1-1"))


@given(st.text(max_size=20), st.text(max_size=80))
def test_a_token_names_its_worker_and_nothing_else_does(worker: str, guess: str) -> None:
    tokens = WorkerTokens(b"secret")
    try:
        token = tokens.token(worker)
        assert tokens.worker_of(token) == worker
        with pytest.raises(PermissionDenied):
            tokens.worker_of(guess)
        with pytest.raises(PermissionDenied):
            tokens.worker_of(f"x{token}")
    except UnicodeEncodeError:  # half a surrogate pair: no message can bring it
        assert not (worker + guess).isprintable()


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    tokens = WorkerTokens(b"secret")
    tokens.worker_of(tokens.token("w1-1"))
    assert len(compared) == 1

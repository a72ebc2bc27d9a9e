"""Tokens of programs that come over TCP: named, kept as digests only, shown once when they are made.

A token is ``stoker-<id>-<secret>``. The secret has 256 random bits, so that a plain digest of it gives nothing away,
and trying them out is hopeless. Whoever has one may do what the server's own user may, but make tokens and end the
server.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stoker.errors import InvalidRequest, NotFound, PermissionDenied, StoreError

PREFIX = "stoker"
NAME_MAX_CHARACTERS = 64
TOKENS_MAX = 1000
SAVE_USE_SECONDS = 60.0  # when a token was last used is written down no more often
_NOBODYS = hashlib.sha256(b"").hexdigest()  # compared where there is no such id, so that both take as long


@dataclass(frozen=True)
class ClientToken:
    """What is kept of a token. ``used`` is when a program last came with it, None for never."""

    id: str
    name: str
    digest: str
    created: float
    used: float | None = None


class ClientTokens:
    """The tokens of one server, in a file of mode 0600. The file is small: it is written on the loop."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._tokens = {token.id: token for token in _read(path)}
        self._saved_at = 0.0

    def __len__(self) -> int:
        return len(self._tokens)

    def create(self, name: str) -> tuple[ClientToken, str]:
        """Make a token; return what is kept, and the token itself, which nobody can tell again.

        Raises:
            InvalidRequest: the name is empty, too long, or taken.
            StoreError: it could not be written down.
        """
        if not name.strip() or len(name) > NAME_MAX_CHARACTERS or not name.isprintable():
            raise InvalidRequest(
                f"{name!r:.80} is no name of a token: 1 to {NAME_MAX_CHARACTERS} printable characters."
            )
        if any(token.name == name for token in self._tokens.values()):
            raise InvalidRequest(f"There is a token {name!r} already. Revoke it first, or take another name.")
        if len(self._tokens) >= TOKENS_MAX:
            raise InvalidRequest(f"There are {TOKENS_MAX} tokens already. Revoke those that nobody uses.")
        made = secrets.token_hex(4)
        while made in self._tokens:
            made = secrets.token_hex(4)
        text = f"{PREFIX}-{made}-{secrets.token_urlsafe(32)}"
        token = ClientToken(made, name, _digest(text), self._clock())
        self._save({**self._tokens, made: token})
        return token, text

    def check(self, text: str) -> ClientToken:
        """Return whose token this is, and note that it was used.

        Raises:
            PermissionDenied: there is none, or it is nobody's.
        """
        if not text:
            raise PermissionDenied(
                "This server wants a token over TCP. Make one on its machine with `stoker tokens create NAME`, and "
                "give it as STOKER_TOKEN, or to `stoker server connect`."
            )
        found = self._tokens.get(_id_of(text))
        kept = found.digest if found is not None else _NOBODYS
        if not hmac.compare_digest(kept, _digest(text)) or found is None:
            raise PermissionDenied(
                "This server does not know the token that it was given (STOKER_TOKEN, or `stoker server connect`): it "
                "is mistyped, of another server, or was revoked. `stoker tokens list` on the server's machine shows "
                "those there are."
            )
        used = replace(found, used=self._clock())
        self._tokens[used.id] = used
        if self._clock() - self._saved_at >= SAVE_USE_SECONDS:
            self._save(self._tokens)
        return used

    def revoke(self, name: str) -> ClientToken:
        """Forget a token by its name or id.

        Raises:
            NotFound: there is none.
        """
        found = next((token for token in self._tokens.values() if name in {token.name, token.id}), None)
        if found is None:
            raise NotFound(f"There is no token {name!r}. `stoker tokens list` shows those there are.")
        self._save({key: token for key, token in self._tokens.items() if token is not found})
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return what may be shown of each token, the oldest first."""
        tokens = sorted(self._tokens.values(), key=lambda token: token.created)
        return [{"id": t.id, "name": t.name, "created": t.created, "used": t.used} for t in tokens]

    def close(self) -> None:
        """Write down when each was last used."""
        if self._tokens:
            self._save(self._tokens)

    def _save(self, tokens: dict[str, ClientToken]) -> None:
        partial = self._path.with_suffix(".partial")
        try:
            partial.unlink(missing_ok=True)
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump([asdict(token) for token in tokens.values()], file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        except OSError as error:
            raise StoreError(f"The tokens could not be written to {self._path}: {error}.") from error
        self._tokens = dict(tokens)
        self._saved_at = self._clock()


def _id_of(text: str) -> str:
    parts = text.split("-", 2)
    return parts[1] if len(parts) == 3 and parts[0] == PREFIX else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> list[ClientToken]:
    try:
        return [ClientToken(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(
            f"The tokens in {path} cannot be read: {error}. Remove the file, start the server again, and make new ones "
            "with `stoker tokens create NAME`."
        ) from error

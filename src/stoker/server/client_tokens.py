"""Tokens of programs that come over TCP or HTTP: named, kept as digests only, shown once when they are made.

A token is ``stoker-<id>-<secret>``. The secret has 256 random bits, so that a plain digest of it gives nothing away,
and trying them out is hopeless. Whoever has one may do what the server's own user may, but make tokens and end the
server; one that is limited to an app may call that, and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stoker.core.rate_limits import Bucket, Rate
from stoker.errors import InvalidRequest, NotFound, PermissionDenied, StoreError

log = logging.getLogger(__name__)

PREFIX = "stoker"
NAME_MAX_CHARACTERS = 64
EXPIRES_MAX_SECONDS = 100 * 366 * 86400.0
TOKENS_MAX = 1000
SAVE_USE_SECONDS = 60.0  # when a token was last used is written down no more often
_NOBODYS = hashlib.sha256(b"").hexdigest()  # compared where there is no such id, so that both take as long


@dataclass(frozen=True)
class ClientToken:
    """What is kept of a token. ``used`` is when a program last came with it, None for never.

    ``app``: it may call that app and do nothing else; ``function``, only that one of it; ``python``, over TCP too.
    """

    id: str
    name: str
    digest: str
    created: float
    used: float | None = None
    app: str = ""
    function: str = ""
    python: bool = False
    rate: Rate | None = None
    expires: float | None = None

    @property
    def is_limited(self) -> bool:
        """Tell whether it is for calling an app only."""
        return bool(self.app)

    @property
    def scope(self) -> str:
        """Return what it is for, as its owner reads it."""
        return f"{self.app}.{self.function}" if self.function else f"app {self.app!r}" if self.app else "everything"

    def allows(self, app: str, function: str) -> bool:
        """Tell whether it may call this function, or this class's methods."""
        return self.app in {"", app} and self.function in {"", function}

    def check_call(self, app: str, function: str) -> None:
        """Make sure that it may call this.

        Raises:
            PermissionDenied: it may not; the message says what it may.
        """
        if not self.allows(app, function):
            raise PermissionDenied(
                f"The token {self.name!r} is for {self.scope} only: it may not call {app}.{function}. `stoker tokens "
                "create NAME --app APP` makes one that may, on the server's machine."
            )


class ClientTokens:
    """The tokens of one server, in a file of mode 0600. The file is small: it is written on the loop."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._tokens = {token.id: token for token in _read(path)}
        self._buckets: dict[str, Bucket] = {}  # of tokens with a rate; full again after a restart
        self._saved_at = 0.0

    def __len__(self) -> int:
        return len(self._tokens)

    def create(
        self,
        name: str,
        *,
        app: str = "",
        function: str = "",
        python: bool = False,
        rate: Rate | None = None,
        expires_in: float | None = None,
    ) -> tuple[ClientToken, str]:
        """Make a token; return what is kept, and the token itself, which nobody can tell again.

        Args:
            name: whose it is.
            app: limits it to calling this app over HTTP.
            function: and there to this function, or class.
            python: lets one that is limited call from Python as well, over TCP.
            rate: how often calls may be made with it.
            expires_in: seconds.

        Raises:
            InvalidRequest: the name is empty, too long, or taken; what it is limited to does not go together.
            StoreError: it could not be written down.
        """
        self._check_new(name)
        if (function or python) and not app:
            raise InvalidRequest(f"{'--function' if function else '--python'} goes with --app.")
        if "." in function:
            raise InvalidRequest(
                f"--function {function}: a function or a class is named without the app, and the methods of a class go "
                "together."
            )
        if expires_in is not None and not 0 < expires_in <= EXPIRES_MAX_SECONDS:
            raise InvalidRequest("A token expires after some time in the next hundred years, or never.")
        made = secrets.token_hex(4)
        while made in self._tokens:
            made = secrets.token_hex(4)
        text = f"{PREFIX}-{made}-{secrets.token_urlsafe(32)}"
        now = self._clock()
        token = ClientToken(
            made,
            name,
            _digest(text),
            now,
            app=app,
            function=function,
            python=python,
            rate=rate,
            expires=None if expires_in is None else now + expires_in,
        )
        self._save({**self._tokens, made: token})
        return token, text

    def _check_new(self, name: str) -> None:
        if not name.strip() or len(name) > NAME_MAX_CHARACTERS or not name.isprintable():
            raise InvalidRequest(
                f"{name!r:.80} is no name of a token: 1 to {NAME_MAX_CHARACTERS} printable characters."
            )
        if any(token.name == name for token in self._tokens.values()):
            raise InvalidRequest(f"There is a token {name!r} already. Revoke it first, or take another name.")
        if len(self._tokens) >= TOKENS_MAX:
            raise InvalidRequest(f"There are {TOKENS_MAX} tokens already. Revoke those that nobody uses.")

    def check(self, text: str) -> ClientToken:
        """Return whose token this is, and note that it was used.

        Raises:
            PermissionDenied: there is none, it is nobody's, or it has expired.
        """
        return self.use(self.identify(text))

    def identify(self, text: str) -> ClientToken:
        """Return whose token this is, be it one that has expired.

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
        return found

    def use(self, token: ClientToken) -> ClientToken:
        """Note that a token is used now.

        Raises:
            PermissionDenied: it has expired.
        """
        now = self._clock()
        if token.expires is not None and now >= token.expires:
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(token.expires))
            raise PermissionDenied(
                f"The token {token.name!r} has expired ({day}). `stoker tokens create NAME` makes another one, on the "
                "server's machine."
            )
        used = replace(token, used=now)
        self._tokens[used.id] = used
        if now - self._saved_at >= SAVE_USE_SECONDS:
            try:
                self._save(self._tokens)
            except StoreError:  # when it was used last is for people: no reason to turn away who may come in
                self._saved_at = now
                log.exception("when the token %s was used is not written down", token.name)
        return used

    def get(self, token_id: str) -> ClientToken | None:
        """Return a token by its id, also one that has expired; None where it was revoked."""
        return self._tokens.get(token_id)

    def named(self, name: str) -> ClientToken:
        """Return a token by its name or id.

        Raises:
            NotFound: there is none.
        """
        found = next((token for token in self._tokens.values() if name in {token.name, token.id}), None)
        if found is None:
            raise NotFound(f"There is no token {name!r}. `stoker tokens list` shows those there are.")
        return found

    def bucket(self, token: ClientToken, now: float) -> Bucket | None:
        """Return what is left of a token's rate; None where it has none. ``now``: seconds of the loop's clock."""
        if token.rate is None:
            return None
        found = self._buckets.get(token.id)
        if found is None:
            found = self._buckets[token.id] = Bucket(token.rate, now)
        return found

    def expired(self) -> set[str]:
        """Return the ids of those that have expired."""
        now = self._clock()
        return {token.id for token in self._tokens.values() if token.expires is not None and now >= token.expires}

    def revoke(self, name: str) -> ClientToken:
        """Forget a token by its name or id.

        Raises:
            NotFound: there is none.
        """
        found = self.named(name)
        self._save({key: token for key, token in self._tokens.items() if token is not found})
        self._buckets.pop(found.id, None)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return what may be shown of each token, the oldest first."""
        tokens = sorted(self._tokens.values(), key=lambda token: token.created)
        return [shown(token) for token in tokens]

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


def shown(token: ClientToken) -> dict[str, Any]:
    """Return what may be shown of a token."""
    return {
        "id": token.id,
        "name": token.name,
        "created": token.created,
        "used": token.used,
        "app": token.app,
        "function": token.function,
        "python": token.python or not token.app,
        "rate": str(token.rate) if token.rate is not None else "",
        "expires": token.expires,
    }


def _id_of(text: str) -> str:
    parts = text.split("-", 2)
    return parts[1] if len(parts) == 3 and parts[0] == PREFIX else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> list[ClientToken]:
    try:
        return [_of_row(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(
            f"The tokens in {path} cannot be read: {error}. Remove the file, start the server again, and make new ones "
            "with `stoker tokens create NAME`."
        ) from error


def _of_row(row: dict[str, Any]) -> ClientToken:
    row = dict(row)  # a ValueError where it is none
    rate = row.get("rate")
    return ClientToken(**{**row, "rate": Rate(**rate) if rate is not None else None})

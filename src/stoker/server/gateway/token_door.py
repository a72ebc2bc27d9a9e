"""Who may call an endpoint: a token that is known, for it, and not used too often; anybody where none is wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stoker.errors import PermissionDenied
from stoker.server.client_tokens import ClientToken
from stoker.server.gateway.problems import Pairs, Problem
from stoker.server.gateway.routing import Route
from stoker.server.gateway.web_calls import PUBLIC
from stoker.server.token_limits import rate_headers, too_often

if TYPE_CHECKING:
    from stoker.server.server import Server


class TokenDoor:
    """See the module. Looked at with each request, so that a token that is revoked is so on open connections too.

    A body may be long in coming. Who has sent one is looked at again when it is here, and not counted again; a token
    that ends after that ends what was asked with it.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def admit(self, route: Route, headers: dict[bytes, bytes], extra: Pairs) -> str:
        """Return whose request it is, a token's id, and count it; ``extra`` gets what is said of the token's rate.

        Raises:
            Problem: a token is asked for, and there is none, it is not known, or not for this; or one was used too
                often.
        """
        return self.counted(self.checked(route, headers), extra)

    def checked(self, route: Route, headers: dict[bytes, bytes]) -> ClientToken | None:
        """Return the token that lets a request in; None where it needs none.

        Raises:
            Problem: a token is asked for, and there is none, it is not known, or not for this.
        """
        given = headers.get(b"authorization", b"")
        if not route.web.requires_token and (not given or route.web.app):
            return None  # what a public app of a user's own is given is for that to check
        try:
            return self._allowed(given, route)
        except Problem:
            if not route.web.requires_token:
                return None  # no token is asked for, so one of something else takes nothing away
            raise

    def check_again(self, routes: Iterable[Route], headers: dict[bytes, bytes]) -> None:
        """Make sure that a request is still let in, by each of these, once its body has come.

        Raises:
            Problem: as of `checked`.
        """
        for route in routes:
            self.checked(route, headers)

    def counted(self, token: ClientToken | None, extra: Pairs) -> str:
        """Return whose request it is that a token has let in, and count it; `extra` as in `admit`.

        Raises:
            Problem: the token was used too often.
        """
        if token is None:
            return PUBLIC
        if token.rate is not None:
            self._count(token, extra)
        return token.id

    def _allowed(self, given: bytes, route: Route) -> ClientToken:
        token = self.known(given, label=route.label)
        try:
            token.check_call(route.spec.app, route.spec.name)
        except PermissionDenied as error:
            raise Problem(403, "PermissionDenied", str(error)) from None
        return token

    def known(self, given: bytes, *, label: str) -> ClientToken:
        """Return the token of an Authorization header.

        Raises:
            Problem: there is none, or it is not known.
        """
        kind, _, text = given.decode("latin-1").partition(" ")
        text = text.strip() if kind.lower() == "bearer" else ""
        tokens = self._server.client_tokens
        try:
            token = tokens.identify(text)
        except PermissionDenied:
            if given and not text:
                raise _unknown(
                    f"{label} asks for a token, and the Authorization header that came has none after the word "
                    "Bearer: it is to be Authorization: Bearer TOKEN."
                ) from None
            raise _unknown(
                "This token is not known here: mistyped, of another server, or revoked."
                if text
                else f"{label} asks for a token, as Authorization: Bearer TOKEN. `stoker tokens create NAME` makes "
                "one on the server's machine."
            ) from None
        try:
            return tokens.use(token)
        except PermissionDenied as error:
            raise _unknown(str(error)) from None

    def _count(self, token: ClientToken, extra: Pairs) -> None:
        now = self._server.now()
        bucket = self._server.client_tokens.bucket(token, now)
        wait = bucket.take(now) if bucket is not None else 0.0
        extra += rate_headers(self._server, token)
        if wait:
            error = too_often(token, wait)
            raise Problem(429, error.type_name, error.message, headers={"retry-after": str(math.ceil(wait))})


def _unknown(said: str) -> Problem:
    return Problem(401, "PermissionDenied", said, headers={"www-authenticate": "Bearer"})

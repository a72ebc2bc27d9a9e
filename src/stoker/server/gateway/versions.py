"""Which version of an app answers a request, while a canary stands beside the current one.

X-Stoker-Version: 4          in a request: this version, if it answers now; in an answer: the one that has
X-Stoker-Sticky: user-17     requests with the same text go to the same version; so does a cookie stoker-sticky
Idempotency-Key: order-7     likewise, so that what is sent again is the same call
"""

from __future__ import annotations

from dataclasses import replace
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from stoker.core.trials import CANARY
from stoker.server.gateway.problems import Problem
from stoker.server.gateway.routing import VERSION, Route, endpoints_of
from stoker.server.metrics.tally import OfVersion

if TYPE_CHECKING:
    from stoker.server.server import Server

STICKY_MAX_CHARACTERS = 255
COOKIE = "stoker-sticky"
HEADER = VERSION


def chosen(server: Server, route: Route, headers: dict[bytes, bytes]) -> Route:
    """Return the endpoint that answers a request which is about to become a call: that of one version or the other.

    Raises:
        Problem: a header names a version that does not answer.
    """
    spec, functions = route.spec, server.functions
    wanted = _wanted(headers)
    beside = functions.beside.get(spec.app) if not spec.run_id else None
    there = _answering(server, route) if wanted else {}
    if wanted and wanted not in there:
        named = ", ".join(map(str, sorted(there))) or "none: it is being served"
        raise Problem(404, "NotFound", f"Version {wanted} of {route.label} does not answer now. Versions: {named}.")
    if beside is None:
        key = there[wanted] if wanted else server.traffic.goes_on(route.key) or route.key
    else:
        key = server.traffic.pool_of_request(route.key, app=spec.app, sticky=_sticky(headers), version=wanted)
    other = functions.specs.get(key)
    if key == route.key or other is None:
        return route
    found = endpoints_of(other, key).get(route.method)
    if found is None or found.web.app != route.web.app:
        return route  # an endpoint that it has no more, or that has become a web app, is answered as before
    return replace(found, is_by_host=route.is_by_host)


def version_of(route: Route) -> list[tuple[bytes, bytes]]:
    """Return the header that says which version answers; none of what is served from a file."""
    return [(HEADER, b"%d" % route.spec.version)] if route.spec.version else []


def counted_as(server: Server, route: Route) -> OfVersion | None:
    """Return as which version's an answer is counted, besides; of none where no canary answers some of the requests."""
    beside = server.functions.beside.get(route.spec.app)
    if beside is None or beside.rollout.kind != CANARY or not route.spec.version:
        return None
    return OfVersion(*route.labels, str(route.spec.version))


def _answering(server: Server, route: Route) -> dict[int, str]:
    """Return the versions that answer now, with the pools: the current one, a canary, one that goes on until then."""
    spec, functions = route.spec, server.functions
    current, beside = functions.current.get(spec.app), functions.beside.get(spec.app)
    if spec.run_id or current is None:
        return {}
    there = {one.version: one.key for one in current.functions if one.name == spec.name}
    if beside is not None and beside.rollout.kind == CANARY and (other := beside.find(spec.name)) is not None:
        there[other.version] = other.key
    if (before := functions.before(there.get(current.version, ""))) is not None:
        there[before.version] = before.key
    elif route.key in functions.lingering.get(spec.app, {}):
        there[spec.version] = route.key
    return there


def _wanted(headers: dict[bytes, bytes]) -> int:
    given = headers.get(HEADER, b"").decode("latin-1").strip()
    if not given:
        return 0
    number = given.removeprefix("v")
    if not (number.isascii() and number.isdigit() and 0 < len(number) < 10 and int(number)):
        raise Problem(400, "BadRequest", f"X-Stoker-Version: {given!r:.40} is no version, as 3.")
    return int(number)


def _sticky(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-stoker-sticky", b"").decode("latin-1").strip()
    if len(given) > STICKY_MAX_CHARACTERS:
        raise Problem(400, "BadRequest", f"X-Stoker-Sticky has {STICKY_MAX_CHARACTERS} characters at most.")
    if given:
        return f"sticky {given}"
    if COOKIE.encode() in headers.get(b"cookie", b""):
        try:
            cookies = SimpleCookie(headers[b"cookie"].decode("latin-1"))
        except CookieError:
            return ""
        if COOKIE in cookies and cookies[COOKIE].value:
            return f"sticky {cookies[COOKIE].value[:STICKY_MAX_CHARACTERS]}"
    key = headers.get(b"idempotency-key", b"").decode("latin-1")
    return f"key {key}" if key else ""

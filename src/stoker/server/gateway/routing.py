"""Where a path leads: ``/<app>/<function>``, of what is deployed or served. Looked up once, until something changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from stoker.errors import NotFound
from stoker.server.gateway.problems import Pairs, Problem
from stoker.server.metrics.tally import Labels
from stoker.server.near_names import nearest
from stoker.types import FunctionSpec, WebSpec

if TYPE_CHECKING:
    from stoker.server.functions import Functions

LONGEST = 80  # characters of a name in a message; none that is deployed is as long
CACHED_MAX = 10_000  # paths that lead somewhere; those that lead nowhere are not kept


HOST_MARK = b"--"
VERSION = b"x-stoker-version"


def is_host_of_function(host: bytes) -> bool:
    """Tell whether a host's name, as a request has it, is that of a function."""
    return HOST_MARK in host.partition(b".")[0] and not host.startswith(b"xn--")  # which says that it is not in ASCII


def host_label(name: str) -> str:
    """Return a name as it is in a host's."""
    return name.lower().replace("_", "-").replace(".", "-")


@dataclass(frozen=True)
class Route:
    """A function or a method of a class, and how it is reached."""

    spec: FunctionSpec
    key: str
    web: WebSpec
    method: str = ""
    is_by_host: bool = False  # its name is in the host, so the path is all its own

    @property
    def streams(self) -> bool:
        kind = self.spec.methods[self.method].kind if self.method else self.spec.kind
        return kind == "generator"

    @cached_property
    def is_plain(self) -> bool:
        """Tell whether its requests may be plain: see `stoker.server.gateway.plain`."""
        return not (self.web.app or self.web.resume or self.streams)

    @cached_property
    def labels(self) -> Labels:
        """Whose numbers its requests are."""
        return Labels(self.spec.app, self.spec.name, self.method)

    @cached_property
    def told(self) -> Pairs:
        """The headers that each of its answers has."""
        return [(name.lower().encode(), value.encode()) for name, value in self.web.headers.items()]

    @cached_property
    def lines(self) -> bytes:
        """The headers of each answer of its version, as they are written."""
        version = [(VERSION, b"%d" % self.spec.version)] if self.spec.version else []
        return b"".join(b"%b: %b\r\n" % pair for pair in [*version, *self.told])

    @property
    def kind(self) -> str:
        """Of its calls, as in `Submitted`."""
        return "exchange" if self.web.app else "stream" if self.streams else "call"

    @property
    def label(self) -> str:
        return f"{self.spec.label}.{self.method}" if self.method else self.spec.label

    @property
    def host(self) -> str:
        """The first label of its own host."""
        parts = [self.method, self.spec.name, self.spec.app] if self.method else [self.spec.name, self.spec.app]
        return "--".join(map(host_label, parts))

    @property
    def path(self) -> str:
        """Its path below the app's."""
        return f"{self.spec.name}/{self.method}" if self.method else self.spec.name


class Routes:
    """See the module."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._known: dict[tuple[str, str], dict[str, Route]] = {}
        self._hosts: dict[str, Route] = {}
        self._apps: dict[str, list[Route]] = {}
        self._generation = -1

    def find(self, path: str, host: bytes = b"") -> tuple[Route, str]:
        """Return the function at a path, and the rest of the path; or that of a host's name, whose all paths are.

        Raises:
            Problem: there is none.
        """
        if HOST_MARK in host and is_host_of_function(host):
            return self._find_by_host(host.decode("latin-1")), path
        app, _, after = path.removeprefix("/").partition("/")
        name, slash, rest = after.partition("/")
        self._forget_if_changed()
        found = self._known.get((app, name))
        if found is None:
            found = self._look_up(app, name)
            if len(self._known) < CACHED_MAX:
                self._known[app, name] = found
        if "" in found:
            return found[""], slash + rest
        method, slash, rest = rest.partition("/")
        if method not in found:
            methods = ", ".join(sorted(found))
            if not method:
                places = ", ".join(f"/{app}/{name}/{one}" for one in sorted(found))
                raise Problem(404, "NotFound", f"{app}.{name} is a class, whose methods are reached at {places}.")
            raise Problem(404, "NotFound", f"{app}.{name} has no endpoint {method!r:.80}. It has: {methods}.")
        return found[method], slash + rest

    def _find_by_host(self, host: str) -> Route:
        """Return the function of ``<function>--<app>.…``, or the method of ``<method>--<class>--<app>.…``.

        Hosts have no case and no underscores: a hyphen stands for one.
        """
        label = host.partition(".")[0].partition(":")[0].lower()
        self._forget_if_changed()
        found = self._hosts.get(label)
        if found is None:
            found = self._hosts[label] = self._look_up_host(label)
        return found

    def _look_up_host(self, label: str) -> Route:
        for name in self._functions.apps():
            if label.endswith(f"--{host_label(name)}"):
                for route in self.of_app(name):
                    if route.host == label:
                        return replace(route, is_by_host=True)
        raise Problem(404, "NotFound", f"The host {label!r:.80} is that of no function here: <function>--<app> is.")

    def _forget_if_changed(self) -> None:
        if self._generation != self._functions.generation:
            self._known.clear()
            self._hosts.clear()
            self._apps.clear()
            self._generation = self._functions.generation

    def of_app(self, app: str) -> list[Route]:
        """Return the endpoints of an app, by name.

        Raises:
            Problem: there is no such app.
        """
        self._forget_if_changed()
        if (known := self._apps.get(app)) is not None:
            return known
        names = self._functions.names_of(app)
        if names is None:
            raise Problem(404, "NotFound", self._functions.missing(app[:LONGEST], ""))
        routes: list[Route] = []
        for name in sorted(names):
            try:
                routes += self._look_up(app, name).values()
            except Problem:
                continue
        self._apps[app] = routes  # who asks for what is not there is told what is, each time
        return routes

    def _look_up(self, app: str, name: str) -> dict[str, Route]:
        """Return the endpoints of a class by the names of its methods; that of a function by the empty one."""
        if not app or not name:
            raise Problem(404, "NotFound", "Functions are at /<app>/<function>; /<app>/docs lists those of an app.")
        try:
            spec = self._functions.lookup(app, name, "")
        except NotFound:
            raise Problem(404, "NotFound", self._missing(app[:LONGEST], name[:LONGEST])) from None
        found = endpoints_of(spec, spec.key)
        before = self._functions.before(spec.key)
        if before is not None:
            found = _with_those_before(found, endpoints_of(before, before.key))
        if not found:
            raise Problem(
                404,
                "NotFound",
                f"{spec.label} is not reached over HTTP. Put @stoker.endpoint() below its @app.function(), or at a "
                "method of the class, and deploy it again.",
            )
        return found

    def _missing(self, app: str, name: str) -> str:
        """Say what there is not; of an app that is there it tells those alone that HTTP reaches, as its page does."""
        if self._functions.names_of(app) is None:
            return self._functions.missing(app, "")
        found = nearest(name, {route.spec.name for route in self.of_app(app)})
        hint = f"Did you mean {found!r}?" if found else f"/{app}/docs lists what it has."
        return f"App {app!r} has no function {name!r} here. {hint}"


def _with_those_before(found: dict[str, Route], before: dict[str, Route]) -> dict[str, Route]:
    """Return the endpoints of a version that is not ready, with those that answer in their place until it is.

    What only the new one has is that one's: nothing else could answer. A function's and a class's do not go together.
    """
    return {**found, **before} if ("" in found) == ("" in before) else before or found


def endpoints_of(spec: FunctionSpec, key: str) -> dict[str, Route]:
    """Return the endpoints of a class by the names of its methods; that of a function by the empty one."""
    found = {name: Route(spec, key, one.web, name) for name, one in spec.methods.items() if one.web is not None}
    if spec.web is not None:
        found[""] = Route(spec, key, spec.web)
    return found

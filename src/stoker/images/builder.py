"""Building environments: once for each recipe, whoever asks, and usable only when whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from stoker.blobs.base import BlobStore
from stoker.errors import ImageBuildError, NotFound
from stoker.images.agreeing import Agree, alone, is_resolved, lock_name
from stoker.images.build import Build
from stoker.images.environment import Environment, Hold, read_environment
from stoker.images.file_locks import build_lock
from stoker.images.frozen import frozen_digest, thawed
from stoker.images.halts import BuildHalted, Halt, Wish
from stoker.images.interpreters import Interpreters, shown_node
from stoker.images.local import check_local, local_environment
from stoker.images.recipe import recipe_id
from stoker.images.steps import check_apt
from stoker.images.uv_tool import Uv
from stoker.types import ImageSpec

Progress = Callable[[str], None]
_ON_DISK = frozenset({"add_local", "add_python"})  # the steps that need a directory even on the caller's own Python
_HOLD_TRIES = 10  # each time, somebody pruned the environment between its build and our claim


def is_as_it_is(spec: ImageSpec) -> bool:
    """Tell whether a recipe is the caller's own Python with nothing to be built for it."""
    return spec.local is not None and not any(step.kind in _ON_DISK for step in spec.steps)


def _silent(_: str) -> None:
    return


@dataclass(eq=False)
class _Flight:
    """One build on its way, those who wish for it, and what ends it."""

    result: Future[Environment] = field(default_factory=Future)
    halt: Halt = field(default_factory=Halt)
    wishes: list[Wish] = field(default_factory=list)
    news: str = ""  # what was said of it last


class EnvironmentBuilder:
    """Turns recipes into environments below ``root``.

    Safe to use from several threads and processes at once: one builds, the others wait and get the same result.
    ``home`` (``root``'s parent, unless given) has the unpacked bundles and the worker path. ``node`` is the id by which
    errors call this machine. ``agree`` is how it comes to the same locks as other nodes.
    """

    def __init__(
        self,
        root: Path,
        blobs: BlobStore,
        *,
        uv: Uv | None = None,
        interpreters: Interpreters | None = None,
        home: Path | None = None,
        node: str = "",
        agree: Agree = alone,
    ) -> None:
        self._root = root
        self._blobs = blobs
        self._uv = uv or Uv()
        self._home = home or root.parent
        self._node = shown_node(node)
        self._agree = agree
        self._agreed: set[str] = set()  # recipes whose environment here has the lock that all nodes go by
        self.interpreters = interpreters or Interpreters(root / "interpreters.json", node=self._node)
        self._flights: dict[str, _Flight] = {}
        self._flights_lock = threading.Lock()
        self._closed = ""

    def ensure(self, spec: ImageSpec, *, progress: Progress = _silent, wish: Wish | None = None) -> Environment:
        """Return the environment of a recipe; it is built first if need be, ``progress`` gets a line for each step.

        Blocks: call it in a thread. Whoever comes while it is being built shares the result, errors included. A build
        that nobody wishes for any more is ended at once.

        Raises:
            ImageBuildError: it cannot be built; the message has the tool's own words.
            BuildHalted: ``wish`` was withdrawn, or this builder was closed.
            InterpreterNotFound: the node has no such Python.
            NotFound: a blob of the recipe is not in the blob store.
            StoreUnavailable: blobs and locks lie elsewhere, which does not answer.
        """
        spec = self._own_or_frozen(spec)
        if spec.local is not None and is_as_it_is(spec):
            for step in spec.steps:
                if step.kind == "apt_install":
                    check_apt(step.args["packages"])
            return local_environment(spec, spec.local)
        recipe = recipe_id(spec)
        if (ready := self._ready(recipe)) is not None and self._is_agreed(recipe, spec, ready):
            return ready
        wish = wish or Wish()
        while True:
            flight, is_mine = self._join(recipe, wish)
            try:
                if is_mine:
                    return self._fly(recipe, spec, flight, progress)
                progress(flight.news or "begins")
                return flight.result.result()
            except BuildHalted:
                if wish.withdrawn or self._closed:
                    raise
                # Those before us gave it up just before we came: it is built anew.

    def is_built(self, spec: ImageSpec) -> bool:
        """Tell whether the environment of a recipe is there, so that `ensure` builds nothing."""
        return self._ready(recipe_id(self._own_or_frozen(spec))) is not None

    def _own_or_frozen(self, spec: ImageSpec) -> ImageSpec:
        """Return the recipe itself, or where it is the caller's environment and that is not here, how to build it."""
        if spec.local is None:
            return spec
        try:
            check_local(spec.local, node=self._node)
        except ImageBuildError:
            if not spec.local.frozen:
                raise
            return thawed(spec)
        return spec

    def close(self, reason: str) -> None:
        """End every build that runs, and begin none any more."""
        with self._flights_lock:
            self._closed = reason
            flights = list(self._flights.values())
        for flight in flights:
            flight.halt.order(reason)

    def _join(self, recipe: str, wish: Wish) -> tuple[_Flight, bool]:
        """Return the build of a recipe that runs, or a new one, which is the caller's to do; it is wished for."""
        with self._flights_lock:
            flight = self._flights.get(recipe)
            is_new = flight is None
            if flight is None:
                flight = self._flights[recipe] = _Flight()
            flight.wishes.append(wish)
            if self._closed:
                flight.halt.order(self._closed)
        wish.tell(lambda: self._reconsider(flight))
        return flight, is_new

    def _reconsider(self, flight: _Flight) -> None:
        with self._flights_lock:
            if all(wish.withdrawn for wish in flight.wishes):
                flight.halt.order("nobody waits for it any more")

    def hold(self, spec: ImageSpec, *, progress: Progress = _silent, wish: Wish | None = None) -> Hold:
        """Return a claim on the environment of a recipe: what `ensure` returns, but safe from pruning meanwhile."""
        for _ in range(_HOLD_TRIES):
            environment = self.ensure(spec, progress=progress, wish=wish)
            try:
                return environment.hold()
            except NotFound:
                continue
        return self.ensure(spec, progress=progress, wish=wish).hold()

    def _ready(self, recipe: str) -> Environment | None:
        try:
            key = (self._root / "recipes" / recipe).read_text()
        except OSError:
            return None
        return read_environment(self._root / key) if key else None

    def _is_agreed(self, recipe: str, spec: ImageSpec, ready: Environment) -> bool:
        """Tell whether an environment from before has what other nodes install; asked once for each recipe."""
        if self._agree is alone or recipe in self._agreed:
            return True
        if is_resolved(spec):
            name, lock = lock_name(recipe, ready.python_version), ready.lock
            if self._agree(name, lock) != lock:
                return False  # it stays for those who use it; another one is built
        self._agreed.add(recipe)
        return True

    def _fly(self, recipe: str, spec: ImageSpec, flight: _Flight, progress: Progress) -> Environment:
        """Build, and tell those who wait in other threads; its errors are theirs too."""

        def tell(line: str) -> None:
            flight.news = line
            progress(line)

        try:
            environment = self._build(recipe, spec, flight.halt, tell)
        except BaseException as error:
            flight.result.set_exception(error)
            raise
        else:
            flight.result.set_result(environment)
            return environment
        finally:
            with self._flights_lock:
                del self._flights[recipe]

    def _build(self, recipe: str, spec: ImageSpec, halt: Halt, progress: Progress) -> Environment:
        def waiting() -> None:
            progress("waiting for another process that builds this environment")

        with build_lock(self._root / "guards" / f"{recipe}.build", waiting=waiting, halt=halt) as lock:
            if (ready := self._ready(recipe)) is not None and self._is_agreed(recipe, spec, ready):
                return ready
            build = Build(
                recipe,
                spec,
                self._root,
                self._home,
                self._blobs,
                self._uv,
                lock,
                progress,
                self._node,
                self._agree,
            )
            if spec.local is not None:
                return build.on_local(spec.local)
            if digest := frozen_digest(spec):
                return build.on_frozen(digest, lambda: self.interpreters.find(spec.python))
            return build.on_interpreter(self.interpreters.find(spec.python))

"""The call that a cluster is: a gang that runs until it is ended, and where its ranks can be met.

It is an attached call, so it ends with this program, however that ends: the server cancels what a client that is gone
has asked for, and a cancelled gang's ranks let go or are killed.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from stoker.client import notices
from stoker.client.app import App
from stoker.client.bundle import build_bundle
from stoker.client.calls import Pending, Settled, Slot, error_of
from stoker.client.first_party import is_first_party
from stoker.client.function import Function
from stoker.client.gangs import Gang
from stoker.client.registration import Shipment
from stoker.errors import (
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    StartupError,
    StokerError,
    Unschedulable,
    WorkerLost,
)
from stoker.quantities import parse_duration
from stoker.transport.current import worker_identity
from stoker.types import FunctionSpec, Outcome

LOOK_SECONDS = 0.1  # between two looks at a cluster that starts, which takes seconds
LIFETIME = "3650d"  # a function's timeout has to be something, and a cluster lasts until it is closed
REACH_SECONDS = 60.0  # from the moment that the ranks run: for their imports, and for the first connection
PROBE_SECONDS = 1.0
LOST_SECONDS = 5.0  # for the server to hear of a rank's end whose connections have broken
CANCEL_SECONDS = 5.0  # for the server to say that the gang is cancelled
CLEAN_UP_SECONDS = 15.0  # the grace of cancelled calls, and what it takes to see their processes off
# What errors of functions advise, and a cluster does not take; a test holds these to what the core says.
OF_GANGS = ("with gang=, cpu= or memory=", "with workers=, cpu= or memory=")
OF_LOSSES = "A call that may be run more often can be given lost_retries=."
T = TypeVar("T")


class ClusterApp(App):
    """An app whose function is Stoker's own, beside the source of whoever wants the cluster: tasks refer to that."""

    def __init__(self, name: str, *, source: str) -> None:
        super().__init__(name, include_source=False)
        self._source = source

    def _spec_of(self, function: Any, shipment: Shipment, *, run_id: str) -> FunctionSpec:
        spec = super()._spec_of(function, shipment, run_id=run_id)
        return replace(spec, code=replace(spec.code, bundle=self._bundle(shipment)))

    def _bundle(self, shipment: Shipment) -> str:
        return shipment.keep(build_bundle(self._source)) if self._source else ""


def module_of(frame: FrameType | None) -> str:
    """Return the name of the module that a frame belongs to, if it is a file of the user's own: a notebook is none."""
    name = str(frame.f_globals.get("__name__", "")) if frame is not None else ""
    file = getattr(sys.modules.get(name), "__file__", None)
    if not file:
        return ""
    source = Path(str(file)).resolve()
    return name if source.is_file() and is_first_party(str(source)) else ""


class _Watched(Slot):
    """The sink of a cluster's call: when that ends by itself and badly, somebody may want to know at once."""

    __slots__ = ("on_failure",)

    def __init__(self) -> None:
        super().__init__()
        self.on_failure: Callable[[], None] | None = None

    def settle(self, pending: Pending, settled: Settled) -> None:
        super().settle(pending, settled)
        on_failure = self.on_failure
        if on_failure is not None and settled.outcome != Outcome.VALUE and not pending.cancelled:
            threading.Thread(target=on_failure, name="stoker-cluster", daemon=True).start()


class GangCall:
    """See the module. ``rank`` is the function that each rank runs with ``plan``, ``what`` is for people."""

    def __init__(
        self, rank: Callable[[Any], Any], plan: object, *, what: str, source: str, options: Mapping[str, Any]
    ) -> None:
        self._what = what
        app = ClusterApp(what.lower(), source=source)
        self._function: Function[..., Any] = app.function(
            timeout=LIFETIME, lost_retries=0, idle_timeout=0, name="cluster", **options
        )(rank)
        self._slot = _Watched()
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(app.run())
        try:
            self._session, route = self._function.route("remote")
            self._pending = self._session.pending(route, self._slot, (plan,), {})
            self._session.submit([self._pending])
        except BaseException:
            self._closing.close()
            raise

    def show(self, text: str) -> None:
        """Say on a terminal what the program waits for; nothing any more with an empty text."""
        notices.screen.status(text)

    def check(self) -> None:
        """Raise what the gang ended with, if it has ended.

        Raises:
            BaseException: the error of the rank that failed, or Stoker's.
            StartupError: it has ended without one.
        """
        settled = self._slot.settled
        if settled is None:
            return
        if settled.outcome == Outcome.VALUE:
            raise StartupError(f"The {self._what} cluster has ended: somebody has shut it down.")
        raise self._error_of(settled)

    def _error_of(self, settled: Settled) -> BaseException:
        """Return the error that the gang ended with, in the words of whoever asked for a cluster."""
        error = error_of(settled, call_id=self._pending.id, label=self._function.label)
        if isinstance(error, (Unschedulable, WorkerLost)):
            text = str(error).replace(*OF_GANGS).replace(f" {OF_LOSSES}", "")
            error.args = (text, *error.args[1:])
        return error

    def on_failure(self, tell: Callable[[], None]) -> None:
        """Have this called, in a thread of its own, when the gang ends by itself and badly."""
        self._slot.on_failure = tell
        self.check()

    def failure(self, *, is_lost: bool = False) -> BaseException | None:
        """Return what the gang has ended with by itself: None while it runs, and where it was shut down.

        ``is_lost`` says that it does not answer any more: its connections break a moment before anybody can say why.
        """
        if is_lost and not self._session.failed:
            self._session.reader.wait(self._slot, time.monotonic() + LOST_SECONDS)
        settled = self._slot.settled
        if settled is None or settled.outcome == Outcome.VALUE or self._pending.cancelled:
            return None
        return self._error_of(settled)

    def wait(self, look: Callable[[], T | None], *, until: float, missing: Callable[[], str]) -> T:
        """Return what ``look`` finds, asked again and again while the gang runs.

        Raises:
            StartupError: it has found nothing by then; ``missing`` says what was waited for.
        """
        while True:
            self.check()
            found = look()
            if found is not None:
                return found
            if time.monotonic() >= until:
                raise StartupError(f"The {self._what} cluster was not there in time: {missing()}", call_id=self.id)
            self._session.wait(self._slot, min(until, time.monotonic() + LOOK_SECONDS))

    def reach(self, address: str, *, until: float) -> None:
        """Return when rank 0 listens at this address.

        Raises:
            StartupError: nothing did by ``until``.
            ConnectionFailed: nothing does that could be reached from here, however long it is tried.
        """
        give_up = min(until, time.monotonic() + REACH_SECONDS)
        why = ""

        def connects() -> bool | None:
            nonlocal why
            try:
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()
            except OSError as error:
                why = str(error)
                return None
            return True

        try:
            self.wait(connects, until=give_up, missing=lambda: why)
        except StartupError:
            self.check()
            if give_up == until:
                raise StartupError(
                    f"The {self._what} cluster was not there in time: its ranks run, and the first one did not answer "
                    f"at {address} yet ({why}). Give it a longer timeout=.",
                    call_id=self.id,
                ) from None
            raise ConnectionFailed(
                f"The {self._what} cluster's ranks run, but the first one could not be reached from this machine at "
                f"{address} within {REACH_SECONDS:.0f} s ({why}). Where it never can be (a firewall, another network), "
                "make the cluster in a function of Stoker's, which runs beside the ranks."
            ) from None

    @property
    def id(self) -> str:
        return self._pending.id

    def addresses(self) -> list[str] | None:
        """Return ``host:port`` of each rank once they run; the server knows, as it has told them."""
        return self._asked().get("addresses") or None

    def why(self) -> str:
        """Say what keeps the ranks from running."""
        return str(self._asked().get("why") or "its ranks are about to begin") + "."

    def _asked(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._session.request("call", {"id": self._pending.id})
        except NotFound:
            return {}  # a server that was just restarted is told of it again
        return found

    def end(self) -> None:
        """End the gang, and return when nothing of it runs any more. Twice is fine."""
        self.show("")
        with self._closing:
            if self._slot.settled is None and not self._session.failed:
                self._session.cancel([self._pending])
                self._session.reader.wait(self._slot, time.monotonic() + CANCEL_SECONDS)
            with contextlib.suppress(StokerError, TimeoutError):
                self._session.request("flush", {"ended": True}, timeout=CLEAN_UP_SECONDS)


def lacking(*packages: str) -> str:
    """Say how to get packages that are missing in this very process: into its image, where it is a worker."""
    if worker_identity() is not None:
        listed = ", ".join(f'"{package}"' for package in packages)
        return f"The image of the function that calls it needs them: .pip_install({listed}), in the cluster's versions."
    return f"Install them: pip install {' '.join(map(repr, packages))}."


def deadline_of(timeout: Any) -> float:
    """Return until when a cluster may start, by the monotonic clock."""
    return time.monotonic() + parse_duration(timeout, option="timeout")


def gang_options(workers: Any, **options: Any) -> dict[str, Any]:
    """Return the options of a cluster's function.

    Raises:
        InvalidRequest: it is no number of workers.
    """
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise InvalidRequest(f"workers={workers!r} is not a number of workers. Write one of at least 1.")
    return {**options, "gang": Gang(size=workers)}

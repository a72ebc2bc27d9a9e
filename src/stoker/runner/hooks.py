"""Runs what a class wants run when a worker begins and when it ends, and says so where the worker cannot begin."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from stoker.protocol.messages import StartFailed
from stoker.runner.callables import Check, Hook
from stoker.runner.checks import Checks, described
from stoker.runner.config import EXIT_ENTER
from stoker.runner.instances import failed_hook
from stoker.runner.links import Links
from stoker.runner.loading import PACKAGE_DIR
from stoker.runner.output import Output
from stoker.types import ErrorInfo

Run = Callable[[Callable[[], Any]], None]  # of the worker's loop: coroutines run in it


class Hooks:
    """See the module. ``run`` calls a hook as the worker's loop calls its functions."""

    def __init__(self, links: Links, output: Output, run: Run, *, label: str, worker: str) -> None:
        self._links = links
        self._output = output
        self._run = run
        self._label = label
        self._worker = worker
        self._refusing = threading.Lock()

    def enter(self, hooks: Sequence[Hook], *, limit: float) -> None:
        """Run enter hooks; the process ends with one that raises, or is not done after ``limit`` seconds."""
        if not hooks:
            return
        state = {"hook": hooks[0]}
        main = threading.get_ident()
        allowed = f"startup_timeout={limit:g} s"
        late = threading.Timer(limit, lambda: self._too_late(_named(state["hook"]), allowed, main))
        late.daemon = True
        late.start()
        for hook in hooks:
            state["hook"] = hook
            try:
                self._run(hook.call)
            except BaseException as error:  # noqa: BLE001 - SystemExit included, as with an import
                what = _named(hook)
                self.refuse(failed_hook(self._label, what, error))
        late.cancel()
        self._output.end_call("")

    def first_check(self, checks: Checks, check: Check) -> None:
        """Have the first check pass, or say that there will be no worker, and end."""
        spec = check.spec
        limit = spec.failures * spec.timeout + (spec.failures - 1) * spec.every
        main = threading.get_ident()
        late = threading.Timer(limit, lambda: self._too_late(f"check {check.name}()", f"{limit:g} s", main))
        late.daemon = True
        late.start()
        try:
            self._run(checks.first)
        except BaseException as error:  # noqa: BLE001 - SystemExit included, as with an import
            tries = f", {spec.failures} times" if spec.failures > 1 else ""
            if isinstance(error, Exception):
                said = f"its first check {check.name}() {described(error)}{tries}"
                self.refuse(ErrorInfo("StartupError", f"{self._label}: {said}. Its worker takes no calls."))
            self.refuse(failed_hook(self._label, f"first check {check.name}()", error))
        late.cancel()
        self._output.end_call("")

    def leave(self, hooks: Sequence[Hook]) -> None:
        """Run exit hooks, each whatever the one before has raised; that goes to the log."""
        for hook in hooks:
            try:
                self._run(hook.call)
            except BaseException:  # noqa: BLE001 - as above; the process ends anyway
                what = hook.what or f"exit() hook {hook.name}()"
                print(f"stoker: the {what} of {self._label} raised:", file=sys.stderr)
                traceback.print_exception(*sys.exc_info())

    def _too_late(self, what: str, allowed: str, thread: int) -> None:
        frame = sys._current_frames().get(thread)
        stack = [one for one in traceback.extract_stack(frame) if not one.filename.startswith(PACKAGE_DIR)]
        where = "".join(traceback.format_list(stack)).rstrip()
        self.refuse(
            ErrorInfo(
                "StartupError",
                f"{self._label}: its {what} was not done within {allowed}. It was here:\n{where}",
            )
        )

    def refuse(self, error: ErrorInfo) -> NoReturn:
        """Tell the server that there will be no worker, and end."""
        self._refusing.acquire()  # whoever comes second waits for the end
        self._output.log.write(f"stoker: {error.message}\n".encode())
        self._output.end_call("")
        self._links.refuse(StartFailed(self._worker, error))
        os._exit(EXIT_ENTER)


def _named(hook: Hook) -> str:
    return hook.what or f"enter() hook {hook.name}()"

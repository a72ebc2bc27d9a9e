"""Finds the user's function: in a module of the bundle, or in a cloudpickle."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stoker.errors import StartupError
from stoker.protocol.payload import set_main_by_value
from stoker.protocol.remote_exceptions import encode_exception
from stoker.protocol.zygotes import ZygoteConfig
from stoker.runner.missing_modules import advise, set_kind
from stoker.types import ErrorInfo

PACKAGE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - as below
RUNNER_DIR = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - as in tracebacks, links unresolved


def set_import_path(config: ZygoteConfig, worker_path: str) -> None:
    """Put the bundle first, then the user's packages, then Stoker's."""
    own = config.sys_path or [entry for entry in sys.path if entry != worker_path]
    bundle = [config.bundle_dir] if config.bundle_dir else []
    set_kind(is_image=not config.sys_path)
    sys.path[:] = [*bundle, *(entry for entry in own if entry not in ("", *bundle)), worker_path]
    importlib.invalidate_caches()


def enter_directory(config: ZygoteConfig) -> None:
    """Change to the function's ``workdir``, else to the client's directory where it exists here.

    Raises:
        StartupError: there is no such ``workdir``.
    """
    if config.workdir:
        try:
            os.chdir(config.workdir)
        except OSError as error:
            raise StartupError(
                f"{config.label}: its workdir cannot be entered ({error.strerror}). Create it, or leave `workdir` out "
                f"to run in the client's own directory. The details:\n{config.workdir}",
                function=config.label,
            ) from error
    elif config.cwd and os.path.isdir(config.cwd):  # noqa: PTH112
        os.chdir(config.cwd)


def load_function(config: ZygoteConfig) -> Callable[..., Any]:
    """Import the function's module, or open its pickle, and return the plain function.

    Raises:
        BaseException: whatever the user's module raises.
    """
    if config.code.by_value:
        set_main_by_value(True)
        found = pickle.loads(Path(config.by_value_file).read_bytes())
        return _plain(found["function"] if isinstance(found, dict) else found, config)
    module = importlib.import_module(config.code.module)
    if config.code.main_alias:
        # The client's script is `__main__` there: what it pickled by that name is found here without running the block
        # that only the script itself may run.
        sys.modules["__main__"] = module
    return _plain(_attribute(module, config), config)


def _attribute(module: types.ModuleType, config: ZygoteConfig) -> Any:
    found: Any = module
    for name in config.code.qualname.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise StartupError(
                f"{config.label}: the module {config.code.module} has no {config.code.qualname!r} when it is imported. "
                "A function that is only defined under `if __name__ == '__main__'` is not seen by workers: define it "
                f"at the module's top. The details:\n{module.__file__}",
                function=config.label,
            ) from None
    return found


def _plain(found: Any, config: ZygoteConfig) -> Callable[..., Any]:
    """Return the undecorated function of what the decorator made."""
    function = getattr(found, "raw_f", found)
    if not callable(function):
        kind = type(function).__name__
        raise StartupError(
            f"{config.label}: {config.code.qualname} is no function but a {kind}.", function=config.label
        )
    result: Callable[..., Any] = function
    return result


def describe_failure(error: BaseException) -> ErrorInfo:
    """Return what went wrong while loading; the traceback begins at the user's own code where it gets that far."""
    at = error.__traceback__
    advise(error)
    while at is not None and at.tb_next is not None and _is_machinery(at):
        at = at.tb_next
    return encode_exception(error.with_traceback(at), strip=PACKAGE_DIR)[1]


def _is_machinery(at: types.TracebackType) -> bool:
    name = at.tb_frame.f_code.co_filename
    return name.startswith((RUNNER_DIR, "<frozen importlib")) or name == importlib.__file__

"""Whether a program deploys its app each time its module is imported, as a worker would do to load a function."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType

from stoker.errors import InvalidRequest


def check_not_at_import(app: str, modules: Collection[str]) -> None:
    """Refuse a deploy that each worker would say again, and fail with: the version before would be gone by then.

    ``modules`` are those that workers import for the app's functions. Refused is only what each import comes to
    whatever else is so: a statement at the top level that says ``….deploy(…)`` itself. What stands under a condition,
    in a loop or in a function may know when to do it.

    Raises:
        InvalidRequest: it is said so in such a module.
    """
    frame = _caller()
    if frame is None or frame.f_code.co_name != "<module>":
        return
    file = frame.f_code.co_filename
    if _is_file_of(frame.f_globals.get("__name__"), modules, file) and _is_plain(file, frame.f_lineno):
        name = Path(file).name
        raise InvalidRequest(
            f"{name}:{frame.f_lineno} deploys {app!r} whenever the module is imported, and each worker imports it "
            'to load its function: none would start. Put the line under `if __name__ == "__main__":`, or leave it '
            f"out and run `stoker deploy {name}`."
        )


def _caller() -> FrameType | None:
    """Return the frame that called the app: the first that is not of this package."""
    here = Path(__file__).parent
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and Path(frame.f_code.co_filename).parent == here:
        frame = frame.f_back
    return frame


def _is_file_of(module: object, modules: Collection[str], file: str) -> bool:
    """Tell whether a file is what workers load for a module, rather than what was run in its namespace."""
    if module not in modules:
        return False
    loaded = getattr(sys.modules.get(str(module)), "__file__", None)
    return loaded is not None and Path(loaded).resolve() == Path(file).resolve()


def _is_plain(file: str, line: int) -> bool:
    """Tell whether an import comes to the deploy that this line is at, whatever else is so."""
    try:
        body = ast.parse(Path(file).read_bytes()).body
    except (OSError, SyntaxError, ValueError):  # a notebook's cell, or the file has changed since
        return False
    found = [one for one in body if one.lineno <= line <= (one.end_lineno or one.lineno)]
    return bool(found) and all(any(map(_deploys, _always_called(one))) for one in found)


def _deploys(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "deploy"


def _always_called(statement: ast.stmt) -> Iterator[ast.Call]:
    """Yield the calls that a plain statement makes each time: its own, and those for their arguments."""
    values = [statement.value] if isinstance(statement, (ast.Expr, ast.Assign, ast.AnnAssign)) else []
    while values:
        value = values.pop()
        if isinstance(value, ast.Call):
            yield value
            values += [*value.args, *(one.value for one in value.keywords)]

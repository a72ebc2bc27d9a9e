"""Whether a program deploys its app each time its module is imported, as a worker would do to load a function."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection
from pathlib import Path
from types import CodeType, FrameType

from stoker.errors import InvalidRequest


def check_not_at_import(app: str, modules: Collection[str]) -> None:
    """Refuse a deploy that each worker would say again, and fail with: the version before would be gone by then.

    ``modules`` are those that workers import for the app's functions. What stands under any condition is let go on, of
    which ``if __name__ == "__main__":`` is one, and where what a worker's import raises may be dealt with.

    Raises:
        InvalidRequest: it is said at the top level of such a module.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "<module>" and frame.f_globals.get("__name__") in modules and _is_plain(code, frame):
            file = Path(code.co_filename).name
            raise InvalidRequest(
                f"{file}:{frame.f_lineno} deploys {app!r} whenever the module is imported, and each worker imports it "
                'to load its function: none would start. Put the line under `if __name__ == "__main__":`, or leave it '
                f"out and run `stoker deploy {file}`."
            )
        frame = frame.f_back


def _is_plain(code: CodeType, frame: FrameType) -> bool:
    """Tell whether a worker's import comes to the line that this frame is at, whatever else is so."""
    try:
        body = ast.parse(Path(code.co_filename).read_bytes()).body
    except (OSError, SyntaxError, ValueError):  # a notebook's cell, or the file has changed since
        return False
    return _is_reached(body, frame.f_lineno)


def _is_reached(body: list[ast.stmt], line: int) -> bool:
    found = next((one for one in body if one.lineno <= line <= (one.end_lineno or one.lineno)), None)
    if isinstance(found, ast.For):
        return line < found.body[0].lineno or _is_reached(found.body, line)
    return isinstance(found, (ast.Expr, ast.Assign, ast.AnnAssign))

"""What annotations mean. One that means nothing, as a name that is imported for type checkers alone, is said to."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any


class Unresolved(Exception):
    """An annotation that means nothing where its module runs."""

    def __init__(self, owner: Any, name: str, annotation: Any, error: Exception) -> None:
        super().__init__(f"{name}: {annotation}")
        self.owner = owner
        self.name = name
        self.annotation = (
            annotation if isinstance(annotation, str) else getattr(annotation, "__forward_arg__", annotation)
        )
        self.error = error

    @property
    def is_final(self) -> bool:
        """Tell whether it means nothing anywhere: no line that runs when its module is imported binds the name."""
        if isinstance(self.error, SyntaxError):
            return True
        missing = getattr(self.error, "name", None) if isinstance(self.error, NameError) else None
        module = sys.modules.get(getattr(self.owner, "__module__", ""))
        if not missing or module is None:
            return False
        try:
            tree = ast.parse(inspect.getsource(module))
        except (OSError, TypeError, SyntaxError):
            return False
        bound = set(_bound(tree.body))
        return missing not in bound and "*" not in bound

    def __str__(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"


class Unreadable(Exception):
    """An annotation that says nothing of what JSON is to be."""

    def __init__(self, annotation: Any) -> None:
        super().__init__(getattr(annotation, "__qualname__", None) or str(annotation))
        self.annotation = annotation

    @property
    def is_final(self) -> bool:
        """Tell whether it says as little elsewhere: it is no stand-in of a class that is to be imported there."""
        name = getattr(self.annotation, "__module__", "") or ""
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None) or ""
        if not isinstance(self.annotation, type) or name.partition(".")[0] in sys.stdlib_module_names or not file:
            return True
        if not {"site-packages", "dist-packages"}.isdisjoint(PurePath(file).parts):
            return True
        try:
            source = inspect.getsource(module) if module is not None else ""
        except (OSError, TypeError):
            return False
        return "ImportError" not in source and "ModuleNotFoundError" not in source


def hints_of(owner: Any) -> tuple[dict[str, Any], list[Unresolved]]:
    """Return the annotations of a class or function, `Any` for those that mean nothing; and these, with the reason."""
    try:
        return typing.get_type_hints(owner, include_extras=True), []
    except Exception:  # noqa: BLE001 - an annotation may be any expression: which of them it is, is found below
        pass
    found: dict[str, Any] = {}
    missed: list[Unresolved] = []
    for one in reversed(getattr(owner, "__mro__", (owner,))):
        for name, annotation in _as_written(one).items():
            try:
                found[name] = _meaning(one, name, annotation)
            except Exception as error:  # noqa: BLE001 - as above
                found[name] = Any
                missed.append(Unresolved(one, name, annotation, error))
    return found, missed


def fields_of(kind: Any) -> dict[str, Any]:
    """Return the annotations of a class.

    Raises:
        Unresolved: one of them means nothing.
    """
    found, missed = hints_of(kind)
    if missed:
        raise missed[0]
    return found


def _as_written(owner: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):  # where asking for them is what evaluates them
        import annotationlib

        return dict(annotationlib.get_annotations(owner, format=annotationlib.Format.FORWARDREF))
    return dict(inspect.get_annotations(owner))


def _meaning(owner: Any, name: str, annotation: Any) -> Any:
    names = getattr(owner, "__globals__", None)
    if names is None:
        names = vars(sys.modules.get(owner.__module__, builtins))
    one = types.SimpleNamespace(__annotations__={name: annotation})
    own = dict(vars(owner)) if isinstance(owner, type) else None
    return typing.get_type_hints(one, globalns=names, localns=own, include_extras=True)[name]


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements bind when they run, wherever they branch; ``*`` where nobody can tell."""
    for statement in body:
        if isinstance(statement, ast.If) and _is_for_checkers(statement.test):
            yield from _bound(statement.orelse)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            for alias in statement.names:
                yield alias.asname or alias.name.partition(".")[0]
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name
            if any(isinstance(one, ast.Global) for one in ast.walk(statement)):
                yield "*"
        else:
            yield from _bound_by(statement)


def _bound_by(statement: ast.stmt) -> Iterator[str]:
    for _, value in ast.iter_fields(statement):
        parts = value if isinstance(value, list) else [value]
        inner = [part for part in parts if isinstance(part, ast.stmt)]
        yield from _bound(inner)
        for part in parts:
            if isinstance(part, (ast.ExceptHandler, ast.match_case)):
                yield from _bound(part.body)
            elif isinstance(part, ast.AST) and not isinstance(part, ast.stmt):
                yield from (
                    one.id for one in ast.walk(part) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
                )


def _is_for_checkers(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"

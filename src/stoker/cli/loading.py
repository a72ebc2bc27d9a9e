"""Finding the app and the function that a command names: ``file.py::name``, or with ``-m`` ``package.module::name``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from stoker.cli.usage import WrongUsage
from stoker.client.app import App, LocalEntrypoint
from stoker.client.classes import Cls
from stoker.client.function import Function
from stoker.client.web import web_app_of
from stoker.errors import InvalidRequest

NEAR = 0.7  # how alike two names of files are of which one is taken for a slip of the other


@dataclass(frozen=True)
class Program:
    """A loaded file or module. ``apps`` are its own; ``used`` are those of functions that it imports."""

    source: str
    module: ModuleType
    apps: tuple[App, ...]
    used: tuple[App, ...] = ()

    @property
    def entrypoints(self) -> dict[str, LocalEntrypoint[..., Any]]:
        return {name: entry for app in self.apps for name, entry in app.registered_entrypoints.items()}

    @property
    def functions(self) -> dict[str, Function[..., Any] | Cls[Any]]:
        return {name: function for app in self.apps for name, function in app.functions.items()}

    @property
    def callable(self) -> dict[str, Function[..., Any] | Cls[Any]]:
        """The functions, and of each class its methods: ``Embedder.embed``."""
        found: dict[str, Function[..., Any] | Cls[Any]] = {}
        for name, one in self.functions.items():
            names = [f"{name}.{method}" for method in one.methods] if isinstance(one, Cls) else [name]
            found.update(dict.fromkeys(names, one))
        return found


def split_target(target: str) -> tuple[str, str]:
    """Return what to load, and the name after ``::`` (empty without one)."""
    source, _, name = target.partition("::")
    return source, name


def load(source: str, *, is_module: bool = False) -> Program:
    """Import a user's file, or module, and find its apps.

    Raises:
        InvalidRequest: there is no such file, or no app in it. What the file itself raises is raised as it is.
    """
    module = _import_module(source) if is_module else _import_file(source)
    apps, used = _apps_of(module)
    if not apps:
        raise InvalidRequest(
            f'{source} defines no app. Write `app = stoker.App("a-name")` in it, and '
            "`@app.function()` before what is to run elsewhere."
        )
    return Program(source, module, apps, used)


def find(program: Program, name: str) -> LocalEntrypoint[..., Any] | Function[..., Any]:
    """Return the entrypoint, or function, of this name; without a name, the one there is.

    Raises:
        WrongUsage: there are several and none is named; the message lists them.
        InvalidRequest: there is none, or none of this name.
    """
    if name:
        return _by_name(program, name)
    if len(program.entrypoints) == 1:
        return next(iter(program.entrypoints.values()))
    if program.entrypoints:
        listed = _listed(program, program.entrypoints)
        raise WrongUsage(f"{program.source} has several local entrypoints: say which one to run.{listed}")
    if len(program.callable) == 1:
        return _by_name(program, next(iter(program.callable)))
    if program.functions:
        raise WrongUsage(
            f"{program.source} has no local entrypoint and several functions: say which one to run, or mark a function "
            f"with `@app.local_entrypoint()`.{_listed(program, program.callable)}"
        )
    raise InvalidRequest(f"The app in {program.source} has nothing to run. Mark a function with `@app.function()`.")


def _by_name(program: Program, name: str) -> LocalEntrypoint[..., Any] | Function[..., Any]:
    known: dict[str, Any] = {**program.callable, **program.entrypoints}
    found = known.get(name) or vars(program.module).get(name)
    if isinstance(found, Cls):
        return _method(program, found, name)
    if isinstance(found, (LocalEntrypoint, Function)):
        return found
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InvalidRequest(f"{program.source} has no function {name!r}.{hint} There are:{_listed(program, known)}")


def by_name(app: str, name: str, found: Function[..., Any] | Cls[Any]) -> list[str]:
    """Return what to write in another program to call a function, or each method of a class, of a deployed app.

    What makes a web app has nothing that a program could call.
    """
    if isinstance(found, Cls):
        parameters = ", ".join(f"{one}=…" for one in found.declared)
        called = [method for method, spec in found.methods.items() if spec.web is None or not spec.web.app]
        return [f'stoker.Cls.from_name("{app}", "{name}")({parameters}).{method}.remote(…)' for method in called]
    if web_app_of(found.raw_f) is not None:
        return []
    return [f'stoker.Function.from_name("{app}", "{name}").remote(…)']


def _method(program: Program, cls: Cls[Any], name: str) -> Function[..., Any]:
    """Return a method of an instance with default parameters; without its name, the one there is."""
    _, _, method = name.rpartition(".")
    if method not in cls.methods:
        if len(cls.methods) > 1:
            listed = _listed(program, {f"{cls.name}.{one}": None for one in cls.methods})
            raise WrongUsage(f"{cls.name} is a class with several methods: say which one to run.{listed}")
        method = next(iter(cls.methods))
    needed = [one for one, spec in cls.declared.items() if spec.required]
    if needed:
        raise InvalidRequest(
            f"{cls.name} must be given {', '.join(needed)}, which the command line cannot. Write a "
            f"`@app.local_entrypoint()` that calls {cls.name}({', '.join(f'{one}=…' for one in needed)}).{method}."
            "remote(…)."
        )
    found: Function[..., Any] = getattr(cls(), method)
    return found


def _listed(program: Program, names: dict[str, Any]) -> str:
    return "".join(f"\n  {program.source}::{name}" for name in names) or " none"


def _apps_of(module: ModuleType) -> tuple[tuple[App, ...], tuple[App, ...]]:
    """Return the apps that the module names, and those of functions it has; the latter as its own, if it names none."""
    values = list(vars(module).values())
    named = {id(value): value for value in values if isinstance(value, App)}
    used: dict[int, App] = {}
    for value in values:
        app = value.app if isinstance(value, (Function, Cls, LocalEntrypoint)) else None
        if app is not None and id(app) not in named:
            used[id(app)] = app
    return (tuple(named.values()), tuple(used.values())) if named else (tuple(used.values()), ())


def _import_module(name: str) -> ModuleType:
    if name.endswith(".py") or "/" in name:
        raise WrongUsage(f"-m takes a module's name such as package.module. For the file {name}, leave -m out.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, something that it imports is not
        raise InvalidRequest(f"There is no module {name!r} on the path, nor below {Path.cwd()}.") from None


def _import_file(source: str) -> ModuleType:
    path = Path(source)
    if not path.is_file():
        raise InvalidRequest(_no_file(path))
    path = path.resolve()
    if path.suffix == ".ipynb":
        raise InvalidRequest(f"{source} is a notebook. Run its cells where you edit it: `with app.run(): f.remote(…)`.")
    _check_source(source, path)
    root, name = _import_name(path)
    sys.path.insert(0, str(root))
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) != str(path):
        raise InvalidRequest(
            f"{source} would be imported as {name!r}, the name of a module that is loaded already "
            f"({getattr(loaded, '__file__', 'built in')}). Give the file another name."
        )
    if "." in name:
        return importlib.import_module(name)
    return _execute(name, path)


def _check_source(source: str, path: Path) -> None:
    """Raise `InvalidRequest` for a file of something else: Python's own words for that do not name the file."""
    if b"\0" in path.read_bytes():
        raise InvalidRequest(f"{source} is no Python source. Name the .py file in which the app is defined.")


def _execute(name: str, path: Path) -> ModuleType:
    """Import a file by its path: its ending does not matter, nor what else of its name is on the path."""
    from importlib.machinery import SourceFileLoader

    spec = importlib.util.spec_from_file_location(name, path, loader=SourceFileLoader(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_name(path: Path) -> tuple[Path, str]:
    """Return the directory for ``sys.path`` and the name to import by; a file in a package is a part of it."""
    root, parts = path.parent, [path.stem.replace(".", "_")]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    return root, ".".join(parts)


def _no_file(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a directory. Name a file in it, or use -m with a module's name."
    parent = path.parent
    there = {p.stem: p.name for p in parent.glob("*.py")} if parent.is_dir() else {}
    # By stems: with the ending that all have, short names would all be near.
    near = difflib.get_close_matches(path.stem, there, n=1, cutoff=NEAR)
    hint = f" Did you mean {parent / there[near[0]]}?" if near else ""
    return f"There is no file {path}.{hint}"

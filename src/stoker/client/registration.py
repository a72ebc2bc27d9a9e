"""Telling the server of functions: their specs, and the blobs that these name and it lacks."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from stoker.client.bundle import Bundle, build_bundle
from stoker.client.first_party import locate
from stoker.client.session import Session
from stoker.errors import InvalidRequest, SerializationError
from stoker.types import CodeRef, FunctionSpec, ImageSpec

_CALLERS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass
class Shipment:
    """Gathers what the specs of one app name: the `Collector` of its images."""

    include_source: bool = True
    freezes: bool = False
    blobs: dict[str, bytes] = field(default_factory=dict)
    _bundles: dict[str, Bundle] = field(default_factory=dict)
    _images: dict[Any, ImageSpec] = field(default_factory=dict)

    def add_blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def image(self, image: Any) -> ImageSpec:
        """Return an image's recipe; its files are read once, however many functions use it."""
        found = self._images.get(image)
        if found is None:
            found = self._images[image] = image.to_spec(self)
        return found

    def code_ref(self, function: Callable[..., Any]) -> CodeRef:
        """Say where a function's code is: in its module, or in a cloudpickle where it cannot be imported.

        Raises:
            InvalidRequest: its source cannot be bundled.
            SerializationError: it cannot travel by value.
        """
        if travels_by_value(function):
            return self._by_value(function)
        module = function.__module__
        if not self.include_source or _is_installed(module):
            return CodeRef(module=_import_name(module), qualname=function.__qualname__)
        bundle = self._bundle(module)
        return CodeRef(
            module=bundle.module or module,
            qualname=function.__qualname__,
            bundle=bundle.digest,
            main_alias=module == "__main__",
        )

    def _by_value(self, function: Callable[..., Any]) -> CodeRef:
        try:
            import cloudpickle

            data: bytes = cloudpickle.dumps(function)
        except Exception as error:
            raise SerializationError(
                f"{_describe(function)} cannot be imported where it runs, so it travels by value, and that failed: "
                f"{error}. Move it to the top level of a module, or make what it refers to inside it.",
                path=function.__qualname__,
            ) from error
        extras = sorted(set(_modules_used(function)))
        digest = ""
        if self.include_source and extras:
            bundle = build_bundle(None, extras)
            if bundle.listing:
                digest = self.keep(bundle)
        return CodeRef(
            qualname=function.__qualname__, bundle=digest, by_value=self.add_blob(data), python=_CALLERS_PYTHON
        )

    def _bundle(self, module: str) -> Bundle:
        if module not in self._bundles:
            self._bundles[module] = build_bundle(module)
            self.keep(self._bundles[module])
        return self._bundles[module]

    def keep(self, bundle: Bundle) -> str:
        """Have a bundle sent with the rest; return its digest."""
        self.blobs[bundle.digest] = bundle.archive
        return bundle.digest


def travels_by_value(function: Callable[..., Any]) -> bool:
    """Tell whether a function cannot be imported under its name: it is local, a lambda, or a notebook's."""
    module = sys.modules.get(function.__module__)
    if module is None or (function.__module__ == "__main__" and not _has_source(module)):
        return True
    found: Any = module
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is not function and getattr(found, "raw_f", None) is not function


def check_python(function: Callable[..., Any], code: CodeRef, image: ImageSpec) -> None:
    """Raise `InvalidRequest` where code by value would meet another minor version of Python."""
    parts = image.python.split(".")
    if not code.by_value or len(parts) < 2 or "/" in image.python:
        return
    if ".".join(parts[:2]) != code.python:
        raise InvalidRequest(
            f"{_describe(function)} travels by value, because it cannot be imported where it runs, and so needs Python "
            f"{code.python}; its image has {image.python}. Put it at the top level of a module or script, or use "
            f"stoker.Image.python({code.python!r})."
        )


def ship(session: Session, blobs: Mapping[str, bytes]) -> None:
    """Send those blobs that the server lacks."""
    if not blobs:
        return
    missing = session.request("blobs_missing", {"digests": sorted(blobs)})
    sent = [session.put_blob(digest, blobs[digest]) for digest in missing]
    for request in sent:
        session.answer(request)


def register(
    session: Session, *, app: str, run_id: str, specs: list[FunctionSpec], served: bool = False
) -> dict[str, str]:
    """Make functions of a run known and return their pools' keys by name. A restarted server is told again."""
    params = {"app": app, "run_id": run_id, "functions": [asdict(spec) for spec in specs], "served": served}
    answer = session.request("register", params)
    keys: dict[str, str] = answer["keys"]
    session.connection.standing["\0".join([app, run_id, *sorted(keys.values())])] = params
    return keys


def end_run(session: Session, *, app: str, run_id: str) -> None:
    """Let the server drop the functions of a run; a restarted one is told of them no more."""
    standing = session.connection.standing
    for name in [name for name in [*standing] if name.startswith(f"{app}\0{run_id}\0")]:
        standing.pop(name, None)
    if session.usable:
        session.tell("end_run", {"app": app, "run_id": run_id})


def _is_installed(module: str) -> bool:
    return module != "__main__" and "." in module and locate(module.partition(".")[0]) is None


def _import_name(module: str) -> str:
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    return Path(str(main.__file__)).stem


def _has_source(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return bool(file) and Path(str(file)).is_file()


def _modules_used(function: Callable[..., Any]) -> Iterator[str]:
    """Yield the modules that a function by value refers to: its bundle has those that are the user's own."""
    if isinstance(function, type):
        yield from (base.__module__ for base in function.__mro__ if base.__module__ not in {"__main__", "builtins"})
        for value in vars(function).values():
            yield from _modules_used(value)
        return
    if not isinstance(function, FunctionType):
        return
    names = list(function.__code__.co_names)
    nested = [const for const in function.__code__.co_consts if hasattr(const, "co_names")]
    while nested:
        code = nested.pop()
        names += code.co_names
        nested += [const for const in code.co_consts if hasattr(const, "co_names")]
    closure = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    for value in [*(function.__globals__.get(name) for name in names), *closure]:
        module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(module, str) and module not in {"__main__", function.__module__, "builtins"}:
            yield module
    if function.__module__ != "__main__" and function.__module__ in sys.modules:
        yield function.__module__
    for name in names:
        # `import helper` inside the function: seen by name only.
        if name in sys.modules and name not in function.__globals__:
            yield name


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _describe(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"

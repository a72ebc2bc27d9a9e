"""`Image`: what a function's environment is made of, declared in Python.

Nothing is built here. `Image.to_spec` turns the declaration into an `ImageSpec` and hands the bytes that must travel
(local files, sources) to a collector; the node builds it.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from stoker.client.bundle import module_files
from stoker.client.names import names_checked
from stoker.client.packing import pack, walk
from stoker.client.relative import beside_caller, hint, stays_behind
from stoker.client.requirements import check_requirement, read_requirements
from stoker.errors import InvalidOption, InvalidRequest
from stoker.fingerprint import fingerprint
from stoker.types import CodeRef, ImageSpec, ImageStep, LocalPython

OLDEST_PYTHON = (3, 10)
NEWEST_PLAUSIBLE_MINOR = 30  # "3.110" is a typo, not a version
MAX_LOCAL_BYTES = 1 << 30  # one add_local_*; what is larger belongs in a volume, not in each image
_APT_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9]+)?(?:=\S+)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
K = TypeVar("K")
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


class Collector(Protocol):
    """Gathers what a recipe needs besides itself. ``freezes``: a node may have to build the caller's environment."""

    @property
    def freezes(self) -> bool: ...

    def add_blob(self, data: bytes) -> str:
        """Take bytes to be shipped; their SHA-256 as hex."""

    def code_ref(self, function: Callable[..., Any]) -> CodeRef:
        """Say where a function's code is, its bundle gathered."""


@dataclass(frozen=True)
class _Step:
    """``args`` is canonical JSON, so that images compare by content; ``origin`` is what is read at `Image.to_spec`."""

    kind: str
    args: str
    origin: Path | Callable[..., Any] | None = None


class _OfImages(type):
    """What is no attribute of the class is told with the nearest that is."""

    if not TYPE_CHECKING:

        def __getattr__(cls, name: str) -> NoReturn:
            raise AttributeError(_no_attribute("Image", name))


def _begun(kind: type[K]) -> type[K]:
    """Have its methods say, where one is called on the class, that an image begins otherwise."""
    for name, method in list(vars(kind).items()):
        if not name.startswith("_") and inspect.isfunction(method):
            setattr(kind, name, _begun_method(name, method))
    return kind


def _begun_method(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    checked = names_checked(method)

    @functools.wraps(method)
    def begun(*args: Any, **kwargs: Any) -> Any:
        if not args or not isinstance(args[0], Image):
            raise InvalidOption(f"Image.{name}(…) has no image to begin with. Write Image.python().{name}(…).")
        return checked(*args, **kwargs)

    return begun


def _no_attribute(of: str, name: str) -> str:
    if name.startswith("_"):
        return f"{of} has no attribute {name!r}."
    known = [one for one in vars(Image) if not one.startswith("_")]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"One begins with Image.python(); it has: {', '.join(known)}."
    return f"{of} has no attribute {name!r}. {hint}"


@_begun
@dataclass(frozen=True)
class Image(metaclass=_OfImages):
    """The recipe of an environment. Immutable: each method returns a new image.

    Start with `Image.local()` or `Image.python()`. Packages of all steps are resolved together and installed first; the
    other steps follow in the order written.
    """

    _python: str
    _is_local: bool = False
    _steps: tuple[_Step, ...] = ()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(_no_attribute("An image", name))

    @classmethod
    def local(cls) -> Image:
        """Use the caller's own environment, as it is.

        It cannot be changed from here: only `env`, `add_local_*` and `apt_install` go on top of it. A node that does
        not have it builds it anew, from what is installed in it now.
        """
        return cls(_caller_python(), True)

    @classmethod
    def python(cls, version: str | None = None) -> Image:
        """Start from an interpreter with nothing installed.

        ``version`` is ``"3.12"``, ``"3.12.4"`` or the path of an interpreter on the node; without one, the caller's.

        Raises:
            InvalidOption: it is no version, or older than 3.10.
        """
        return cls(_caller_python() if version is None else _check_python(version))

    def pip_install(
        self,
        *requirements: str,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        find_links: str | os.PathLike[str] | None = None,
    ) -> Image:
        """Install packages, each a requirement such as ``"numpy>=2"``.

        ``find_links`` is a directory of wheels on the node, or a page that links to them.

        Raises:
            InvalidOption: a requirement is malformed; its place among the arguments is named.
        """
        checked = [
            check_requirement(_string(text, f"pip_install argument {place}"), where=f"pip_install argument {place}")
            for place, text in enumerate(requirements, 1)
        ]
        if not checked:
            raise InvalidOption("pip_install() names no requirement. Write pip_install('numpy>=2').")
        for name, url in (("index_url", index_url), ("extra_index_url", extra_index_url)):
            if url is not None and "://" not in _string(url, f"pip_install {name}"):
                raise InvalidOption(f"pip_install {name}: {url!r} is no URL. Write 'https://…', or use find_links=.")
        self._check_one_index(index_url)
        links = None if find_links is None else _absolute_links(find_links)
        return self._packages(
            "pip_install",
            requirements=checked,
            index_url=index_url,
            extra_index_url=extra_index_url,
            find_links=links,
        )

    def requirements(self, path: str | os.PathLike[str]) -> Image:
        """Install what a requirements file lists; files it includes (``-r``, ``-c``) are read too.

        A relative path begins at the directory of the file that this is written in, here as in the other methods.

        Raises:
            InvalidRequest: the file cannot be read.
            InvalidOption: a line is malformed; file and line are named.
        """
        if stays_behind():
            return self._packages("unread", name=str(path))
        image, found = self, beside_caller(path)
        if not found.is_file():
            raise InvalidRequest(f"requirements: {found} is no file.{hint(path)}")
        for file in read_requirements(found, name=str(path)):
            args: dict[str, Any] = {"text": file.text, "name": file.name}
            image = image._packages("requirements", **args, **({"constraint": True} if file.constraint else {}))
        return image

    def uv_sync(self, path: str | os.PathLike[str] = "pyproject.toml") -> Image:
        """Install the dependencies of a project: its ``uv.lock`` exactly where there is one, else ``pyproject.toml``'s.

        ``path`` is the file or its directory. The project itself is not installed, nor are its development groups.
        """
        if stays_behind():
            return self._packages("unread", name=str(path))
        file, shown = beside_caller(path), Path(path)
        if file.is_dir():
            file, shown = file / "pyproject.toml", shown / "pyproject.toml"
        lock = file.with_name("uv.lock")
        return self._packages(
            "uv_sync",
            pyproject=_read_text(file, f"uv_sync({str(path)!r})", hint(path)),
            lock=_read_text(lock, "uv_sync", "") if lock.is_file() else "",
            name=str(shown),
        )

    def env(self, variables: Mapping[str, str]) -> Image:
        """Set environment variables, for the build steps and for the function."""
        given: list[tuple[object, object]] = list(variables.items())
        for name, value in given:
            if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
                raise InvalidOption(f"env: {name!r} is no name for an environment variable.")
            if not isinstance(value, str):
                kind = type(value).__name__
                raise InvalidOption(f"env: {name} is {value!r} ({kind}); environment variables are strings.")
            if "\0" in value:
                raise InvalidOption(f"env: the value of {name} contains a null byte.")
        return self._with("env", vars=dict(variables))

    def run_commands(self, *commands: str) -> Image:
        """Run shell commands at build time, in the environment's directory, its ``bin`` first on the ``PATH``."""
        self._refuse_on_local("run_commands")
        for place, command in enumerate(commands, 1):
            if not _string(command, f"run_commands argument {place}").strip():
                raise InvalidOption(f"run_commands argument {place} is empty.")
        return self._with("run_commands", commands=list(commands))

    def run_function(self, function: Callable[[], Any]) -> Image:
        """Call a function once, at build time, inside the environment: download weights, compile, warm a cache.

        It runs again when its own source changes, not when other code does.
        """
        self._refuse_on_local("run_function")
        if not callable(function):
            raise InvalidOption(f"run_function takes a function, not {function!r}.")
        return self._with("run_function", function, source=_source_digest(function))

    def add_local_dir(self, local: str | os.PathLike[str], remote: str) -> Image:
        """Copy a directory into the image, to ``remote`` below the directory that ``$STOKER_FILES`` names."""
        path = beside_caller(local).resolve()
        if not path.is_dir() and not stays_behind():
            raise InvalidRequest(f"add_local_dir: {path} is no directory.{hint(local)}")
        return self._with(
            "add_local", path, target=_check_target(remote, "add_local_dir"), name=str(path), single=False
        )

    def add_local_file(self, local: str | os.PathLike[str], remote: str) -> Image:
        """Copy a file into the image, to ``remote`` below ``$STOKER_FILES``; ``"dir/"`` keeps the file's name."""
        path = beside_caller(local).resolve()
        if not path.is_file() and not stays_behind():
            raise InvalidRequest(f"add_local_file: {path} is no file.{hint(local)}")
        target = remote + path.name if remote.endswith("/") else remote
        return self._with(
            "add_local", path, target=_check_target(target, "add_local_file"), name=str(path), single=True
        )

    def add_local_python_source(self, *modules: str) -> Image:
        """Make modules or packages of this machine importable in the image."""
        image = self
        for place, module in enumerate(modules, 1):
            if not _MODULE.fullmatch(_string(module, f"add_local_python_source argument {place}")):
                raise InvalidOption(f"add_local_python_source argument {place}: {module!r} is no module name.")
            if not stays_behind():
                module_files(module)
            image = image._with("add_python", name=module)
        return image

    def apt_install(self, *packages: str) -> Image:
        """Require system packages. They must be installed on the node: the build says which are missing, and how."""
        for place, package in enumerate(packages, 1):
            if not _APT_PACKAGE.fullmatch(_string(package, f"apt_install argument {place}")):
                raise InvalidOption(f"apt_install argument {place}: {package!r} is no package name.")
        return self._with("apt_install", packages=list(packages))

    def to_spec(self, collector: Collector) -> ImageSpec:
        """Return the recipe as it travels; files and sources are read now and handed to the collector.

        Raises:
            InvalidRequest: a file went away since it was declared, or is too large to ship.
        """
        steps = [_resolve(step, collector) for step in self._steps]
        return ImageSpec(self._python, _local_spec(collector) if self._is_local else None, steps)

    def __repr__(self) -> str:
        start = "Image.local()" if self._is_local else f"Image.python({self._python!r})"
        return start + "".join(f".{step.kind}(…)" for step in self._steps)

    def _with(self, kind: str, origin: Path | Callable[..., Any] | None = None, /, **args: Any) -> Image:
        step = _Step(kind, json.dumps(args, sort_keys=True), origin)
        return Image(self._python, self._is_local, (*self._steps, step))

    def _packages(self, kind: str, /, **args: Any) -> Image:
        self._refuse_on_local(kind)
        return self._with(kind, **args)

    def _check_one_index(self, index_url: str | None) -> None:
        earlier = {json.loads(step.args).get("index_url") for step in self._steps if step.kind == "pip_install"}
        if index_url is not None and earlier - {None, index_url}:
            raise InvalidOption(
                f"pip_install index_url: an earlier step has another one. All packages of an image are resolved "
                f"together, so it has one index: give {index_url!r} as extra_index_url."
            )

    def _refuse_on_local(self, method: str) -> None:
        if self._is_local:
            raise InvalidOption(
                f"Image.local() is your own environment: {method}() would change it for everything else that uses it. "
                f"Start with Image.python(), or install into your environment yourself."
            )


def local_python() -> LocalPython:
    """Return this process's interpreter, search path and fingerprint."""
    search = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100 - "" is the working directory
    search = [entry for entry in dict.fromkeys(search) if os.path.exists(entry)]  # noqa: PTH110
    return LocalPython(sys.executable, search, fingerprint(sys.executable, search))


def _local_spec(collector: Collector) -> LocalPython:
    local = local_python()
    if not collector.freezes:
        return local
    from stoker.client.freezing import freeze  # reads metadata: most programs never need it

    return replace(local, frozen=freeze(local.sys_path, collector.add_blob))


def _resolve(step: _Step, collector: Collector) -> ImageStep:
    args: dict[str, Any] = json.loads(step.args)
    if step.kind == "unread":
        raise InvalidRequest(
            f"{args['name']} stays where its app was deployed from, so this image cannot be made from within a worker."
        )
    if step.kind == "add_local":
        assert isinstance(step.origin, Path)
        args["blob"] = collector.add_blob(_pack_local(step.origin))
    elif step.kind == "add_python":
        args["blob"] = collector.add_blob(pack(module_files(args["name"])))
    elif step.kind == "run_function":
        assert callable(step.origin)
        code = collector.code_ref(step.origin)
        args.update(module=code.module, qualname=code.qualname, bundle=code.bundle, by_value=code.by_value)
        args["name"] = getattr(step.origin, "__qualname__", None) or code.qualname
    return ImageStep(step.kind, args)


def _pack_local(path: Path) -> bytes:
    """Archive a directory's files under their names, or one file under the name ``file``."""
    if path.is_file():
        files = [("file", path)]
    elif path.is_dir():
        files = [(name, file) for name, file, _ in walk(path)]
    else:
        raise InvalidRequest(f"{path} went away after it was added to an image.")
    size = sum(file.stat().st_size for _, file in files if not file.is_symlink())
    if size > MAX_LOCAL_BYTES:
        raise InvalidRequest(
            f"{path} has {size / 1e6:.0f} MB, more than the {MAX_LOCAL_BYTES / 1e6:.0f} MB that one step may copy into "
            "an image. Leave it where it is and read it from there, or download it in run_function()."
        )
    return pack(files)


def _caller_python() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _check_python(version: str) -> str:
    if not isinstance(version, str):
        raise InvalidOption(f"Image.python: {version!r} is not a string. Write Image.python('3.12').")
    if "/" in version:
        return str(beside_caller(version))
    found = re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?", version.strip())
    if not found:
        raise InvalidOption(
            f"Image.python: {version!r} is no version. Write '3.12', '3.12.4' or an interpreter's path."
        )
    major, minor = int(found[1]), int(found[2])
    if major != 3 or minor > NEWEST_PLAUSIBLE_MINOR:
        raise InvalidOption(f"Image.python: there is no Python {version}.")
    if (major, minor) < OLDEST_PYTHON:
        raise InvalidOption(f"Image.python: Python {version} is too old. Stoker runs functions on 3.10 and later.")
    return version.strip()


def _check_target(remote: str, method: str) -> str:
    target = _string(remote, f"{method} remote")
    if target.startswith("/") or ".." in target.split("/"):
        raise InvalidOption(
            f"{method}: {target!r} lies outside of the image. Give a relative path, such as 'data': the function finds "
            "it at os.path.join(os.environ['STOKER_FILES'], 'data')."
        )
    parts = [part for part in target.split("/") if part not in {"", "."}]
    return "/".join(parts)


def _string(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidOption(f"{where}: {value!r} is not a string but {type(value).__name__}.")
    return value


def _absolute_links(where: str | os.PathLike[str]) -> str:
    text = os.fspath(where)
    if "://" in text:
        return text
    path = beside_caller(text).resolve()
    if not path.is_dir() and not stays_behind():
        raise InvalidRequest(f"pip_install find_links: {path} is no directory.{hint(text)}")
    return str(path)


def _read_text(path: Path, where: str, hint: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{where}: {path} cannot be read: {error}.{hint}") from error


def _source_digest(function: Callable[..., Any]) -> str:
    try:
        return hashlib.sha256(inspect.getsource(inspect.unwrap(function)).encode()).hexdigest()
    except (OSError, TypeError):
        return ""  # typed into a prompt: the recipe then goes by the code that is shipped

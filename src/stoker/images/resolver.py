"""From what is wanted to exact versions: the lock."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from stoker.errors import ImageBuildError
from stoker.images.file_locks import BuildLock
from stoker.images.interpreters import Interpreter
from stoker.images.recipe import Packages, UvProject, Wanted, normalized
from stoker.images.uv_tool import Uv

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def resolve(
    packages: Packages,
    interpreter: Interpreter,
    *,
    uv: Uv,
    scratch: Path,
    lock: BuildLock,
    progress: Callable[[str], None],
) -> str:
    """Return the lock: one pinned requirement a line, each with what asked for it.

    ``scratch`` is a directory for this call alone; it is emptied first and gone afterwards.

    Raises:
        ImageBuildError: nothing satisfies the requirements; uv's words, and which of the user's lines they are about.
    """
    if packages.empty:
        return ""
    count = len(packages.wanted)
    progress(f"resolving {count} requirement{'s' * (count != 1)}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        inputs = _write_inputs(packages, scratch)
        for number, project in enumerate(packages.projects, 1):
            inputs.append(_project_input(number, project, interpreter, uv=uv, scratch=scratch, lock=lock))
        output = scratch / "lock.txt"
        prereleases = ["--prerelease=allow"] if packages.prereleases else []
        done = uv.run(
            *("pip", "compile", "--no-header", "--python", interpreter.path, *prereleases),
            *("-o", output.name, *packages.arguments, *inputs),
            cwd=scratch,
            lock=lock,
            progress=progress,
        )
        if done.returncode != 0:
            raise build_error("Its requirements do not resolve", done.output, packages.wanted, interpreter)
        return output.read_text(encoding="utf-8")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def build_error(what: str, words: str, wanted: list[Wanted], interpreter: Interpreter) -> ImageBuildError:
    """Return the error for a failure of uv: its own words, and the places that they are about."""
    mentioned = {normalized(word.rstrip(".")) for word in _WORD.findall(words)}
    blamed = list(dict.fromkeys(f"\n  {item.where}: {item.text}" for item in wanted if item.package in mentioned))
    about = f"\nThis is about:{''.join(blamed)}" if blamed else ""
    return ImageBuildError(
        f"The image could not be built for Python {interpreter.version}. {what}; uv says:\n{_indented(words)}{about}",
        log=words,
    )


def _write_inputs(packages: Packages, scratch: Path) -> list[str]:
    arguments: list[str] = []
    for file in packages.inputs:
        kept = "\n".join("" if line.strip() == "--pre" else line for line in file.text.splitlines())
        (scratch / file.name).write_text(kept + "\n", encoding="utf-8")
        arguments += ["--constraints", file.name] if file.constraint else [file.name]
    return arguments


def _project_input(
    number: int, project: UvProject, interpreter: Interpreter, *, uv: Uv, scratch: Path, lock: BuildLock
) -> str:
    """Return the file to resolve for a project: its ``pyproject.toml``, or what its ``uv.lock`` pins."""
    directory = scratch / f"project-{number}"
    directory.mkdir()
    (directory / "pyproject.toml").write_text(project.pyproject, encoding="utf-8")
    if not project.lock:
        return f"{directory.name}/pyproject.toml"
    (directory / "uv.lock").write_text(project.lock, encoding="utf-8")
    done = uv.run(
        *("export", "--frozen", "--no-dev", "--no-emit-project", "--no-emit-workspace", "--no-hashes", "--no-header"),
        *("--python", interpreter.path, "-o", "../exported.txt"),
        cwd=directory,
        lock=lock,
        progress=lambda _: None,
    )
    if done.returncode != 0:
        raise ImageBuildError(
            f"The lock beside {project.name} cannot be used; uv says:\n{_indented(done.output)}", log=done.output
        )
    exported = scratch / f"project-{number}.txt"
    (scratch / "exported.txt").rename(exported)
    return exported.name


def _indented(words: str) -> str:
    return "\n".join(f"  {line}" for line in words.strip().splitlines())

"""What a recipe asks for: what is installed, in which files the user wrote it, and what identifies it."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from stoker.types import ImageSpec, digest_of

_NAME_FIRST = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")
_SOURCE_OPTION = r"(-i|-f|--(index-url|extra-index-url|find-links|no-index|no-binary|only-binary|trusted-host))\b"
FORMAT = 1  # changes when environments are laid out differently: older ones are then built again


@dataclass(frozen=True)
class Wanted:
    """One requirement as its user wrote it. ``where`` is what an error calls the place."""

    package: str
    text: str
    where: str


@dataclass(frozen=True)
class InputFile:
    """A file handed to the resolver, one per step that names packages."""

    name: str
    text: str
    constraint: bool = False


@dataclass(frozen=True)
class UvProject:
    """The files of a ``uv_sync`` step."""

    name: str
    pyproject: str
    lock: str


@dataclass(frozen=True)
class Packages:
    """Everything that a recipe installs from indexes; resolved together."""

    inputs: list[InputFile]
    projects: list[UvProject]
    wanted: list[Wanted]
    arguments: list[str]  # for the resolver and the installer: where packages come from
    options: list[str]  # lines of the user's files that say so, for the installer
    prereleases: bool  # a `--pre` line

    @property
    def empty(self) -> bool:
        return not self.inputs and not self.projects


def recipe_id(spec: ImageSpec) -> str:
    """Return what identifies a recipe on this platform.

    A build function counts by its own source where that is known, not by the bundle it travels in: an edit elsewhere in
    the project does not download its weights again.
    """
    recipe = asdict(spec)
    for step in recipe["steps"]:
        if step["kind"] == "run_function" and step["args"].get("source"):
            step["args"] = {key: step["args"][key] for key in ("module", "qualname", "source")}
    return digest_of([FORMAT, recipe, _platform_tag()])[:32]


def environment_key(recipe: str, lock: str, interpreter: str) -> str:
    """Return the key of the environment that a recipe and its lock make on an interpreter."""
    return digest_of([recipe, lock, interpreter])[:32]


@lru_cache(maxsize=1)
def _platform_tag() -> str:
    return "-".join([sys.platform, platform.machine(), *platform.libc_ver()])


def packages_of(spec: ImageSpec) -> Packages:
    """Gather what all steps of a recipe install."""
    inputs: list[InputFile] = []
    projects: list[UvProject] = []
    arguments: list[str] = []
    wanted: list[Wanted] = []
    pip_steps = sum(step.kind == "pip_install" for step in spec.steps)
    pip_step = 0
    for number, step in enumerate(spec.steps, 1):
        if step.kind == "pip_install":
            pip_step += 1
            call = f"pip_install #{pip_step}" if pip_steps > 1 else "pip_install"
            wanted += _wanted_of_arguments(step.args["requirements"], call)
            inputs.append(InputFile(f"{call.replace(' #', '-')}.in", "\n".join(step.args["requirements"]) + "\n"))
            arguments += _index_arguments(step.args)
        elif step.kind == "requirements":
            name, text = str(step.args["name"]), str(step.args["text"])
            wanted += _wanted_of_lines(text, name)
            inputs.append(InputFile(f"{number}-{_file_name(name)}", text, bool(step.args.get("constraint"))))
        elif step.kind == "uv_sync":
            project = UvProject(str(step.args["name"]), str(step.args["pyproject"]), str(step.args["lock"]))
            wanted += _wanted_of_project(project)
            projects.append(project)
    lines = [line.strip() for file in inputs for line in file.text.splitlines()]
    options = [line for line in lines if re.match(_SOURCE_OPTION, line)]
    return Packages(inputs, projects, wanted, list(dict.fromkeys(arguments)), options, "--pre" in lines)


def variables_of(spec: ImageSpec) -> dict[str, str]:
    """Return the environment variables of all ``env`` steps; later ones win."""
    found: dict[str, str] = {}
    for step in spec.steps:
        if step.kind == "env":
            found.update(step.args["vars"])
    return found


def normalized(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _index_arguments(args: dict[str, Any]) -> Iterator[str]:
    if index := args.get("index_url"):
        yield f"--default-index={index}"
    if extra := args.get("extra_index_url"):
        yield f"--index={extra}"
        yield "--index-strategy=unsafe-best-match"  # what pip does, whose option this is
    if links := args.get("find_links"):
        yield f"--find-links={links}"


def _wanted_of_arguments(requirements: list[str], call: str) -> Iterator[Wanted]:
    for place, text in enumerate(requirements, 1):
        if name := _NAME_FIRST.match(text):
            yield Wanted(normalized(name[1]), text, f"{call} argument {place}")


def _wanted_of_lines(text: str, name: str) -> Iterator[Wanted]:
    for number, line in enumerate(text.splitlines(), 1):
        if found := _NAME_FIRST.match(line):
            yield Wanted(normalized(found[1]), line.split(" #")[0].strip(), f"{name}, line {number}")


def _wanted_of_project(project: UvProject) -> Iterator[Wanted]:
    for number, line in enumerate(project.pyproject.splitlines(), 1):
        for _, text in re.findall(r"""(["'])([A-Za-z0-9][^"']*)\1""", line):
            if found := _NAME_FIRST.match(text):
                yield Wanted(normalized(found[1]), text, f"{project.name}, line {number}")


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", PurePath(name).name) or "requirements.txt"

"""`Image.local()` on a node that does not have it: built from the description that the client froze.

The description is the lock: every distribution in the version that the client has, each from where it came from, none
resolved anew. What came from the client's own disk is a wheel among the blobs.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from stoker.blobs.base import BlobStore
from stoker.errors import ImageBuildError, NotFound
from stoker.images.command import Finished
from stoker.images.interpreters import Interpreter
from stoker.images.recipe import normalized
from stoker.types import FrozenDistribution, FrozenPython, ImageSpec, ImageStep

STEP = "frozen"
WHEELS = ".wheels"  # below the environment, while it is built
MISSING_SHOWN = 8  # each is found by asking uv once more
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.+!_-]*)")
_QUOTED = re.compile(r"`([A-Za-z0-9][A-Za-z0-9._-]*)")

Install = Callable[[Sequence[str]], Finished]
"""Has uv install, or look for, these requirements: names with versions or URLs, and files."""


def thawed(spec: ImageSpec) -> ImageSpec:
    """Return the recipe by which another node builds the caller's environment: it names nothing of the caller's."""
    assert spec.local is not None
    return replace(spec, local=None, steps=[ImageStep(STEP, {"digest": spec.local.frozen}), *spec.steps])


def frozen_digest(spec: ImageSpec) -> str:
    """Return which description a recipe starts from; empty for one that does not."""
    return next((str(step.args["digest"]) for step in spec.steps if step.kind == STEP), "")


def read_frozen(blobs: BlobStore, digest: str, *, node: str) -> FrozenPython:
    """Return a description whose distributions can all be had on this platform.

    Raises:
        ImageBuildError: some cannot; they are named.
        NotFound: the blob is not in the store.
    """
    try:
        frozen = FrozenPython.from_bytes(blobs.get(f"bundle/{digest}"))
    except ValueError as error:
        raise ImageBuildError(f"The description of the caller's environment cannot be read: {error}.") from error
    here = platform_tag()
    reasons = [item.problem for item in frozen.distributions if item.problem]
    reasons += [
        f"{item.name} {item.version} is installed from your own disk and holds compiled files for {frozen.platform}; "
        f"{node} is {here}. Install it from an index that has it for both."
        for item in frozen.distributions
        if item.compiled and frozen.platform != here
    ]
    if reasons:
        raise ImageBuildError(_cannot(frozen, node) + "".join(f"\n  {reason}" for reason in reasons) + _instead(frozen))
    return frozen


def platform_tag() -> str:
    """Return what compiled files need here, as `stoker.client.freezing` says it of the client."""
    return "-".join([sys.platform, platform.machine(), platform.libc_ver()[0] or "other"])


def lock_of(frozen: FrozenPython) -> str:
    """Return the lock: a requirement a line; those that travelled by content stand in comments."""
    lines = [f"# {it.name} {it.version}: its files, {it.wheel[:16]}\n" for it in frozen.distributions if it.wheel]
    return "".join([*lines, *(f"{requirement_of(item)}\n" for item in frozen.distributions if not item.wheel)])


def requirement_of(item: FrozenDistribution) -> str:
    return item.url or f"{item.name}=={item.version}"


def put_wheels(frozen: FrozenPython, blobs: BlobStore, directory: Path) -> list[str]:
    """Write the wheels that travelled; return their names relative to ``directory``."""
    names = []
    for item in frozen.distributions:
        if item.wheel:
            stem = item.name.replace("-", "_")
            place = directory / WHEELS / f"{stem}-{item.version.replace('-', '_')}-py3-none-any.whl"
            place.parent.mkdir(exist_ok=True)
            try:
                place.write_bytes(blobs.get(f"bundle/{item.wheel}"))
            except NotFound as error:
                raise NotFound(f"The files of {item.name}, which the caller has from its own disk: {error}") from error
            names.append(f"./{WHEELS}/{place.name}")
    return names


def failure(
    frozen: FrozenPython, first: Finished, *, look: Install, node: str, interpreter: Interpreter
) -> ImageBuildError:
    """Return the error for an installation that failed.

    ``look`` asks uv for the other requirements again, so that all that cannot be had are named, not only the first.
    """
    left = {item.name: item for item in frozen.distributions if not item.wheel}
    missing: list[FrozenDistribution] = []
    done = first
    while done.returncode != 0 and (blamed := _blamed(done.output, left)) and len(missing) < MISSING_SHOWN:
        missing += [left.pop(item.name) for item in blamed]
        done = look([requirement_of(item) for item in left.values()])
    words = "\n".join(f"  {line}" for line in first.output.strip().splitlines())
    named = "".join(f"\n  {item.url or f'{item.name} {item.version}'}" for item in missing)
    about = f" These cannot be had there for Python {interpreter.version}:{named}" if missing else ""
    return ImageBuildError(f"{_cannot(frozen, node)}{about}\nuv says:\n{words}{_instead(frozen)}", log=first.output)


def _blamed(words: str, left: dict[str, FrozenDistribution]) -> list[FrozenDistribution]:
    """Return those that uv's words are about: by name and version where they say both, else by name."""
    pairs = {normalized(name) for name, _ in _PIN.findall(words)}
    names = pairs & left.keys() or {normalized(word) for word in _QUOTED.findall(words)} & left.keys()
    return [left[name] for name in sorted(names)]


def _cannot(frozen: FrozenPython, node: str) -> str:
    return f"The caller's own environment (Image.local(), Python {frozen.python}) cannot be built on {node}."


def _instead(frozen: FrozenPython) -> str:
    return (
        "\nInstall what is missing from an index that the node reaches, or from a directory or wheel on your disk (its "
        "files then travel); or say what the function needs in place of all that you have installed: "
        f'Image.python("{frozen.python}").pip_install(…), with add_local_python_source(…) for code of your own.'
    )

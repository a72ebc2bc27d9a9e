"""Environments of what is deployed: those that are not there yet are built here, before a request waits for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import typer

from stoker import paths
from stoker.blobs.memory import MemoryBlobStore
from stoker.cli.screen import fail, note
from stoker.cli.server_requests import ask
from stoker.client.endpoints import configured_endpoint
from stoker.errors import StokerError
from stoker.images.builder import EnvironmentBuilder
from stoker.types import FunctionSpec, ImageSpec


class Wanted(NamedTuple):
    """An environment, and the functions that run in it."""

    spec: ImageSpec
    labels: list[str]

    @property
    def names(self) -> str:
        return ", ".join(self.labels)


def wanted_by(functions: Sequence[tuple[str, ImageSpec]]) -> list[Wanted]:
    """Return the environments of functions, given by their labels, each once."""
    found: dict[str, Wanted] = {}
    for label, spec in functions:
        found.setdefault(spec.digest, Wanted(spec, [])).labels.append(label)
    return list(found.values())


def in_own(functions: Sequence[FunctionSpec]) -> list[str]:
    """Return the names of those that run in the caller's environment, and no more once that has changed."""
    return [one.name for one in functions if one.image.local is not None and not one.image.local.frozen]


def prepare(
    functions: Sequence[FunctionSpec], blobs: Mapping[str, bytes], *, source: str, builds: bool, silent: bool
) -> None:
    """Build what functions are about to be deployed with, where the server is to run them on this machine.

    What is there costs a look. With ``builds`` off, or where workers run elsewhere, it is only said who builds it.

    Raises:
        typer.Exit: an environment cannot be built; the cause has been printed.
    """
    wanted = [one for one in wanted_by([(f.label, f.image) for f in functions]) if not _is_there_anyway(one.spec)]
    if not wanted:
        return
    if not _runs_here():
        if not silent:
            for one in wanted:
                note(f"{one.names}: the environment is built on a node when a worker is first started there")
        return
    store = MemoryBlobStore()
    for digest, data in blobs.items():
        store.put(f"bundle/{digest}", [data])
    builder = EnvironmentBuilder(paths.environments(), store)
    for one in wanted:
        if builder.is_built(one.spec):
            continue
        if builds:
            _build(builder, one, app=functions[0].app, silent=silent)
        elif not silent:
            note(
                f"{one.names}: the first call waits until the environment is built; `stoker images build {source}` "
                "does it now"
            )


def _build(builder: EnvironmentBuilder, one: Wanted, *, app: str, silent: bool) -> None:
    progress = partial(_tell, one.names, silent=silent)
    try:
        builder.ensure(one.spec, progress=progress)
    except StokerError as error:
        fail(f"{one.names}: {error}\n{app} was not deployed.")
        raise typer.Exit(1) from None


def _tell(names: str, text: str, *, silent: bool) -> None:
    if not silent:
        note(f"{names}: {text}")


def _is_there_anyway(spec: ImageSpec) -> bool:
    return spec.local is not None and not spec.steps


def _runs_here() -> bool:
    """Tell whether the server that programs use runs its workers on this machine, in environments of this home."""
    if configured_endpoint() is not None:
        return False
    status = ask("status")
    return bool(status["engine"] == "local" and status["state_dir"] == str(paths.server_home()))

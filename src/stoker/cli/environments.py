"""Environments of what is deployed: those that are not there yet are built here, before a request waits for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import typer

from stoker import paths
from stoker.blobs.memory import MemoryBlobStore
from stoker.cli.screen import fail, note
from stoker.cli.server_requests import ask
from stoker.client.endpoints import configured_endpoint
from stoker.errors import StokerError
from stoker.images.builder import EnvironmentBuilder, is_as_it_is
from stoker.types import FunctionSpec, ImageSpec


class Wanted(NamedTuple):
    """An environment, and the functions that run in it."""

    spec: ImageSpec
    labels: list[str]

    @property
    def names(self) -> str:
        return ", ".join(self.labels)

    @property
    def is_bare(self) -> bool:
        """Tell whether it is the caller's own Python and nothing else is asked of it."""
        return self.spec.local is not None and not self.spec.steps


def wanted_by(functions: Sequence[tuple[str, ImageSpec]]) -> list[Wanted]:
    """Return the environments of functions, given by their labels, each once."""
    found: dict[str, Wanted] = {}
    for label, spec in functions:
        found.setdefault(spec.digest, Wanted(spec, [])).labels.append(label)
    return list(found.values())


def prepare(
    functions: Sequence[FunctionSpec], blobs: Mapping[str, bytes], *, source: str, builds: bool, silent: bool
) -> None:
    """Build what functions are about to be deployed with, where the server is to run them on this machine.

    What is there costs a look. With ``builds`` off, or where workers run elsewhere, it is only said who builds it.

    Raises:
        typer.Exit: an environment cannot be built; the cause has been printed.
    """
    found = [one for one in wanted_by([(f.label, f.image) for f in functions]) if not one.is_bare]
    if not found:
        return
    if not _runs_here():
        for one in found:
            if not silent and not is_as_it_is(one.spec):
                note(f"{one.names}: the environment is built on a node when a worker is first started there")
        return
    store = MemoryBlobStore()
    for digest, data in blobs.items():
        store.put(f"bundle/{digest}", [data])
    builder = EnvironmentBuilder(paths.environments(), store)
    for one in found:
        if is_as_it_is(one.spec):
            if builds:  # nothing is, but whether the machine has what it asks for is looked at
                _build(builder, one, silent=silent)
        elif builder.is_built(one.spec):
            continue
        elif builds:
            _build(builder, one, silent=silent)
        elif not silent:
            note(
                f"{one.names}: the first call waits until the environment is built; `stoker images build {source}` "
                "does it now"
            )


def _build(builder: EnvironmentBuilder, one: Wanted, *, silent: bool) -> None:
    progress = partial(_tell, one.names, silent=silent)
    try:
        builder.ensure(one.spec, progress=progress)
    except StokerError as error:
        fail(f"{one.names}: {error}\nNothing was deployed.")
        raise typer.Exit(1) from None


def _tell(names: str, text: str, *, silent: bool) -> None:
    if not silent:
        note(f"{names}: {text}")


def _runs_here() -> bool:
    """Tell whether the server that programs use runs its workers on this machine, in environments of this home."""
    endpoint = configured_endpoint()
    if endpoint is not None and endpoint.is_remote:
        return False
    status = ask("status")
    return bool(status["engine"] == "local" and Path(status["state_dir"]).resolve() == paths.server_home().resolve())

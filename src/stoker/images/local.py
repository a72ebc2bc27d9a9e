"""`Image.local()` on the node: the caller's own environment, used as it is and checked at each start."""

from __future__ import annotations

import os

from stoker.errors import ImageBuildError, InterpreterNotFound
from stoker.fingerprint import fingerprint
from stoker.images.environment import Environment
from stoker.images.recipe import variables_of
from stoker.types import ImageSpec, LocalPython


def local_environment(spec: ImageSpec, local: LocalPython) -> Environment:
    """Return the caller's environment with the image's variables; nothing is built, so there is nothing to hold."""
    return Environment(
        key=f"local-{local.fingerprint[:26]}",
        directory="",
        python=local.executable,
        python_version=spec.python,
        sys_path=list(local.sys_path),
        variables=variables_of(spec),
        is_local=True,
    )


def check_local(local: LocalPython, *, node: str = "this node") -> None:
    """Check that the caller's environment is here, and what it was when the image was declared.

    One that is frozen is to be here in full: another machine may have the same interpreter, but not what the search
    path names beside it.

    Raises:
        InterpreterNotFound: this node does not have it.
        ImageBuildError: what is installed in it changed.
    """
    if not os.access(local.executable, os.X_OK):
        raise InterpreterNotFound(
            f"The image is the caller's own environment ({local.executable}), which {node} does not have, and it was "
            "declared when no other machine was there. Start the program again (a deployed app: deploy it again), or "
            "declare an image that can be built anywhere: Image.python().pip_install(…)."
        )
    missing = [entry for entry in local.sys_path if local.frozen and not os.path.exists(entry)]  # noqa: PTH110
    if missing:
        raise ImageBuildError(f"The caller's own environment is not on {node} in full: {missing[0]} is not there.")
    if fingerprint(local.executable, local.sys_path) != local.fingerprint:
        raise ImageBuildError(
            f"The environment of {local.executable} changed since the image was declared: a package was installed, "
            "upgraded or removed. Start the program again (a deployed app: deploy it again), so that its functions run "
            "in what is there now; or pin what they need with Image.python().pip_install(…)."
        )

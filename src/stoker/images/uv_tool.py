"""uv, as this package uses it: one binary, found by its own package, told nothing that the user did not say."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import uv

from stoker.images.command import Finished, run
from stoker.images.file_locks import BuildLock
from stoker.images.pip_settings import uv_variables

_NOT_FOR_UV = (
    *("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "PYTHONPYCACHEPREFIX"),
    *("UV_PYTHON", "UV_PROJECT_ENVIRONMENT"),
)
_NEWS = re.compile(r"\s*(Resolved|Prepared|Installed|Downloading|Building|Built|Updating|Updated) (.+)")


class Uv:
    """Runs uv with the caller's ``UV_*`` variables; Pythons are not downloaded unless the caller asked for that."""

    def __init__(self, binary: str | None = None, *, environ: Mapping[str, str] | None = None) -> None:
        self.binary = binary or uv.find_uv_bin()
        self._environ = os.environ if environ is None else environ

    def run(self, *args: str, cwd: Path, lock: BuildLock, progress: Callable[[str], None]) -> Finished:
        """Run uv; what it says of its progress is passed on, shortened."""

        def on_line(line: str) -> None:
            if news := _NEWS.match(line):
                progress(f"{news[1].lower()} {news[2]}")

        return run([self.binary, "--color=never", *args], cwd=cwd, env=self._variables(), lock=lock, on_line=on_line)

    def _variables(self) -> dict[str, str]:
        variables = {name: value for name, value in self._environ.items() if name not in _NOT_FOR_UV}
        variables.update(uv_variables(self._environ))
        variables.setdefault("UV_PYTHON_DOWNLOADS", "never")
        return variables

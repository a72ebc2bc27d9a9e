"""Interpreters of other versions, bare or with a NumPy of their own, for tests of what crosses between them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")


def _missing(what: str) -> None:
    """Skip a test whose service is missing; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@lru_cache
def interpreter(version: str) -> Path:
    """Return a Python of that version, or skip. It may have packages: run it with ``-S`` where it must have none."""
    for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
        return path
    found = shutil.which(f"python{version}")
    if found is None:
        _missing(f"There is no Python {version} on this machine.")
    return Path(str(found))


def present() -> list[str]:
    """Return the versions that this machine has."""
    homes = Path.home() / ".pyenv" / "versions"
    return [v for v in VERSIONS if shutil.which(f"python{v}") or any(homes.glob(f"{v}.*/bin/python"))]


@lru_cache
def with_packages(version: str, *requirements: str) -> Path:
    """Return the Python of an environment with these packages, made once and kept; or skip."""
    root = Path(os.environ.get("STOKER_TEST_CACHE") or Path.home() / ".cache" / "stoker-tests")
    root.mkdir(parents=True, exist_ok=True)
    name = "-".join((version, *requirements)).replace("=", "").replace("<", "lt").replace("[", "").replace("]", "")
    target = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / ".ready").exists():
            _make(target, interpreter(version), requirements)
            (target / ".ready").touch()
    return target / "bin" / "python"


def _make(target: Path, python: Path, requirements: tuple[str, ...]) -> None:
    shutil.rmtree(target, ignore_errors=True)
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    links = os.environ.get("PIP_FIND_LINKS", "")
    environment = {**os.environ, **({"UV_FIND_LINKS": links} if links else {})}
    for command in (
        [uv, "venv", "--quiet", "--python", str(python), str(target)],
        [uv, "pip", "install", "--quiet", "--python", str(target / "bin" / "python"), *requirements],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            _missing(f"{' '.join(command)} failed: {done.stderr}")


def run(python: Path, *arguments: str | Path, extra_path: str = "") -> str:
    """Run that Python with Stoker's source (and ``extra_path``, last) to import from; return what it printed."""
    path = f"{SOURCE}{os.pathsep}{extra_path}" if extra_path else str(SOURCE)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}
    done = subprocess.run(
        [str(python), "-W", "error", "-W", "ignore::PendingDeprecationWarning", *map(str, arguments)],
        env={**environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

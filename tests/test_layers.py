"""The worker-side packages load in any interpreter from 3.10 on, given only what a worker gets."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import stoker
from stoker.images.interpreters import Interpreter, Interpreters
from stoker.images.worker_path import ensure_worker_path

WORKER_SIDE = (
    *("errors", "types", "quantities", "paths", "fingerprint", "protocol", "transport", "web", "client", "runner"),
    "clusters",
)
SOURCE = Path(stoker.__file__).parent
CACHE = Path(os.environ["STOKER_TEST_ROOT"]) / "interpreters.json"

_IMPORT_ALL = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
for name in sys.argv[2:]:
    importlib.import_module(name)
import stoker
for name in getattr(stoker, '__all__', ()):
    getattr(stoker, name)
server_side = ("core", "blobs", "store", "images", "engine", "server", "cli")
foreign = [m for m in sys.modules if m.startswith("stoker.") and m.split(".")[1] in server_side]
if foreign:
    sys.exit(f"server-side modules were imported: {foreign}")
foreign = ("msgspec", "rich", "typer", "psutil", "uvloop", "numpy", "torch", "distributed", "ray")
installed = [m for m in foreign if m in sys.modules]
if installed:
    sys.exit(f"installed packages were imported: {installed}")
"""


def _modules() -> list[str]:
    names = []
    for row in WORKER_SIDE:
        files = [SOURCE / f"{row}.py"] if (SOURCE / f"{row}.py").is_file() else sorted((SOURCE / row).rglob("*.py"))
        for file in files:
            parts = file.relative_to(SOURCE.parent).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if not name.endswith("__main__")]


@cache
def _newest_of_each_minor() -> list[Interpreter]:
    found: dict[tuple[int, ...], Interpreter] = {}
    for interpreter in Interpreters(CACHE).all():
        found.setdefault(interpreter.numbers[:2], interpreter)
    return list(found.values())


@pytest.mark.parametrize("interpreter", _newest_of_each_minor(), ids=lambda found: found.version)
def test_worker_side_imports_with_the_standard_library_alone(interpreter: Interpreter, tmp_path: Path) -> None:
    path = ensure_worker_path(tmp_path)
    command = [interpreter.path, "-I", "-S", "-B", "-W", "error", "-c", _IMPORT_ALL, str(path), *_modules()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_oldest_and_our_own_interpreter_are_among_those_tested() -> None:
    versions = [interpreter.numbers[:2] for interpreter in _newest_of_each_minor()]
    assert sys.version_info[:2] in versions


@pytest.mark.parametrize("statement", ["import stoker", "import stoker.cli"])
def test_import_leaves_no_thread_and_opens_no_session(statement: str) -> None:
    check = "import threading; assert threading.active_count() == 1"
    done = subprocess.run([sys.executable, "-c", f"{statement}\n{check}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_stop_at_700_lines() -> None:
    long = {
        str(path.relative_to(SOURCE)): count
        for path in SOURCE.rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 700
    }
    assert not long

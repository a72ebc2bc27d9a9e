from __future__ import annotations

import subprocess
import time
from pathlib import Path

from stoker.images.interpreters import Interpreters
from stoker.images.worker_path import ensure_worker_path


def test_it_holds_stoker_and_two_packages_and_nothing_else(tmp_path: Path) -> None:
    directory = ensure_worker_path(tmp_path)
    assert sorted(path.name for path in directory.iterdir()) == ["cloudpickle", "stoker", "threadpoolctl.py"]
    assert ensure_worker_path(tmp_path) == directory
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_every_interpreter_imports_stoker_from_it_and_not_its_dependencies(tmp_path: Path) -> None:
    directory = ensure_worker_path(tmp_path)
    program = (
        f"import sys; sys.path.append({str(directory)!r}); import stoker, stoker.types, cloudpickle, threadpoolctl\n"
        "import importlib.util as u; print([n for n in ('msgspec', 'uvloop', 'typer') if u.find_spec(n)])"
    )
    for interpreter in Interpreters(tmp_path / "cache.json").all():
        command = [interpreter.path, "-I", "-S", "-c", program]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_link_that_leads_nowhere_is_made_again(tmp_path: Path) -> None:
    directory = ensure_worker_path(tmp_path)
    (directory / "stoker").unlink()
    (directory / "stoker").symlink_to(tmp_path / "gone")
    assert (ensure_worker_path(tmp_path) / "stoker" / "errors.py").exists()


def test_a_warm_look_takes_under_1_ms(tmp_path: Path) -> None:
    ensure_worker_path(tmp_path)
    start = time.perf_counter()
    for _ in range(20):
        ensure_worker_path(tmp_path)
    assert (time.perf_counter() - start) / 20 < 0.001

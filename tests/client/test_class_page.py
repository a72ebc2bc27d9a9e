"""What docs/classes.md shows is run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.client import session as sessions
from tests.faults.running import PersistentServer

PAGE = Path(__file__).parents[2] / "docs" / "classes.md"
PROGRAM, CHECKED, BY_NAME, TESTS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def run(place: Path, *arguments: str) -> str:
    found = subprocess.run(
        [sys.executable, *arguments], cwd=place, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "search.py").write_text(PROGRAM)
    return tmp_path


def test_the_program(place: Path, runtime_dir: Path) -> None:
    assert [line for line in run(place, "search.py").splitlines() if "|" not in line] == [
        "[1.0, 2.0]",
        "[[1.0], [2.0], [0.0]]",
        "[('hello', 1.0), ('you', 0.0)]",
    ]
    head, tail = 'import stoker\napp = stoker.App("checked")\n', "\nif __name__ == '__main__':\n  with app.run(): "
    (place / "checked.py").write_text(f"{head}{CHECKED}{tail}print(Index().look_up.remote('a'))")
    assert run(place, "checked.py").splitlines() == ["1"]
    shown = run(place, "-m", "stoker.cli", "run", "search.py::Embedder.embed", "--text", "hello")
    assert shown.splitlines()[0] == "[1.0]"


def test_its_tests(place: Path, runtime_dir: Path) -> None:
    (place / "test_search.py").write_text(TESTS)
    run(place, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(place), "-n", "0", "test_search.py")


def test_other_programs(place: Path, own_home: Path, runtime_dir: Path) -> None:
    server = PersistentServer()
    assert "error" not in server.start()
    try:
        shown = run(place, "-m", "stoker.cli", "deploy", "search.py")
        assert 'stoker.Cls.from_name("search", "Embedder")(size=…).embed.remote(…)' in shown
        (place / "other.py").write_text(BY_NAME)
        assert run(place, "other.py").splitlines() == ["[1.0]", "[1.0]"]
        assert "size='small'" in run(place, "-m", "stoker.cli", "functions", "list")
    finally:
        sessions.close()
        server.stop()

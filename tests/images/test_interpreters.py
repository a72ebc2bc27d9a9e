from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from stoker.errors import InterpreterNotFound
from stoker.images.interpreters import Interpreters


def _fake(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """A home with pyenv, conda and uv, each with Pythons of versions that no real machine has."""
    _fake(tmp_path / ".pyenv/versions/3.10.99/bin/python3.10", "3.10.99 final cpython")
    _fake(tmp_path / ".pyenv/versions/pypy/bin/python3.10", "3.10.98 final pypy")
    _fake(tmp_path / ".pyenv/versions/2.7.18/bin/python", "2.7.18 final cpython")
    _fake(tmp_path / "miniconda3/envs/work/bin/python3.12", "3.12.99 final cpython")
    _fake(tmp_path / ".local/share/uv/python/cpython-3.13.99/bin/python3.13", "3.13.99 final cpython")
    _fake(tmp_path / "bin/python3.12", "3.12.98 final cpython")
    _fake(tmp_path / "bin/python3.14", "3.14.0 beta cpython")
    _fake(tmp_path / "elsewhere/mypython", "3.11.99 final cpython")
    return {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin", "STOKER_PYTHONS": f"{tmp_path}/elsewhere/mypython"}


def test_finds_them_all_and_prefers_the_newest(tmp_path: Path, machine: dict[str, str]) -> None:
    found = Interpreters(tmp_path / "cache.json", environ=machine)
    sources = {item.version: item.source for item in found.all() if item.version.endswith(("98", "99"))}
    assert sources == {
        "3.13.99": "uv",
        "3.12.99": "conda",
        "3.12.98": "PATH",
        "3.11.99": "STOKER_PYTHONS",
        "3.10.99": "pyenv",
    }
    assert found.find("3.12").version == "3.12.99"
    assert found.find("3.12.98").path == f"{tmp_path}/bin/python3.12"
    assert found.find(sys.executable).version.startswith("3.")
    assert any(item.path.startswith(sys.base_prefix) for item in found.all())


def test_a_missing_one_lists_those_there_are(tmp_path: Path, machine: dict[str, str]) -> None:
    found = Interpreters(tmp_path / "cache.json", environ=machine)
    with pytest.raises(InterpreterNotFound, match=r"(?s)no Python 3\.1\b.*3\.13\.99.*3\.10\.99"):
        found.find("3.1")
    with pytest.raises(InterpreterNotFound, match=r"is no Python from 3\.10 on"):
        found.find("/bin/true")


def test_a_changed_binary_is_asked_again(tmp_path: Path, machine: dict[str, str]) -> None:
    found = Interpreters(tmp_path / "cache.json", environ=machine)
    assert found.find("3.10.99")
    _fake(tmp_path / ".pyenv/versions/3.10.99/bin/python3.10", "3.10.100 final cpython # longer")
    with pytest.raises(InterpreterNotFound):
        found.find("3.10.99")


def test_a_damaged_cache_is_made_anew(tmp_path: Path, machine: dict[str, str]) -> None:
    (tmp_path / "cache.json").write_text('{"/x": 5')
    assert Interpreters(tmp_path / "cache.json", environ=machine).find("3.13.99")


def test_a_warm_look_takes_under_10_ms(tmp_path: Path) -> None:
    found = Interpreters(tmp_path / "cache.json")
    first = found.all()
    took = []
    for _ in range(5):
        start = time.perf_counter()
        assert found.all() == first
        took.append(time.perf_counter() - start)
    assert min(took) < 0.010

"""Relative paths of a program begin beside its file, wherever it is run from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import stoker
from stoker.client.image import Image
from stoker.transport.current import loading
from tests.client.test_image import Gathered

MODULE = """
import stoker

def image():
    return (
        stoker.Image.python()
        .requirements("needs/all.txt").uv_sync("project").pip_install("six", find_links="wheels")
        .add_local_dir("data", "data").add_local_file("data/a.txt", "b/")
    )

def missing(method, *more):
    return getattr(stoker.Image.python(), method)("only/here", *more)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Have a program and its files, and another working directory."""
    at = tmp_path / "program"
    for name in ("needs", "project", "wheels", "data"):
        (at / name).mkdir(parents=True)
    (at / "needs" / "all.txt").write_text("-r more.txt\n")
    (at / "needs" / "more.txt").write_text("numpy\n")
    (at / "project" / "pyproject.toml").write_text("[project]\nname = 'p'\nversion = '1'\n")
    (at / "data" / "a.txt").write_text("a")
    (at / "placed.py").write_text(MODULE)
    (tmp_path / "elsewhere" / "only" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(str(at))
    yield importlib.import_module("placed")
    del sys.modules["placed"]


def test_they_begin_beside_the_file_that_names_them(module: ModuleType, tmp_path: Path) -> None:
    steps = module.image().to_spec(Gathered()).steps
    needs = [step.args for step in steps if step.kind == "requirements"]
    assert [args["name"] for args in needs] == ["needs/more.txt", "needs/all.txt"], "by the names that its user gave"
    (links,) = [step.args["find_links"] for step in steps if step.kind == "pip_install"]
    assert links == str(tmp_path / "program" / "wheels")
    assert [step.args["target"] for step in steps if step.kind == "add_local"] == ["data", "b/a.txt"]


@pytest.mark.parametrize(
    ("method", "more"), [("requirements", ()), ("uv_sync", ()), ("add_local_dir", ("x",)), ("add_local_file", ("x",))]
)
def test_what_is_not_there_says_where_it_was_looked_for(
    module: ModuleType, tmp_path: Path, method: str, more: tuple[Any, ...]
) -> None:
    with pytest.raises(stoker.InvalidRequest) as caught:
        module.missing(method, *more)
    for said in ("program/only/here", "begins at the directory of the file", f"{tmp_path}/elsewhere/only/here, in the"):
        assert said in str(caught.value)


def test_at_a_prompt_they_begin_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    typed: dict[str, Any] = {"__name__": "__main__"}
    exec("import stoker; image = stoker.Image.python().add_local_dir('data', 'data')", typed)
    assert len(typed["image"].to_spec(Gathered()).steps) == 1


def test_a_worker_that_imports_the_module_needs_none_of_the_files(module: ModuleType) -> None:
    with loading("app.f"):
        image = module.missing("requirements")
        module.missing("uv_sync")
        module.missing("add_local_dir", "x")
        module.missing("add_local_file", "x")
    with pytest.raises(stoker.InvalidRequest, match="only/here stays where its app was deployed from"):
        image.to_spec(Gathered())


def test_a_workers_directory_is_named_in_full() -> None:
    app = stoker.App("somewhere")

    with pytest.raises(stoker.InvalidOption, match=r"workdir='data' is a relative path"):
        app.function(workdir="data")


def test_an_interpreter_is_found_beside_the_file() -> None:
    assert Image.python("venv/bin/python").to_spec(Gathered()).python == str(Path(__file__).parent / "venv/bin/python")

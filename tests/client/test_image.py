from __future__ import annotations

import copy
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stoker.client.image import Image
from stoker.errors import InvalidOption, InvalidRequest
from stoker.types import CodeRef


class Gathered:
    freezes = False

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def add_blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def code_ref(self, function: Callable[..., Any]) -> CodeRef:
        return CodeRef(module=function.__module__, qualname=function.__qualname__, bundle="b" * 64)


WRONG: Any = {"A": 1}  # of no type that these take


def fetch() -> None:
    """A build function."""


def test_each_method_returns_a_new_image_and_equality_is_by_content() -> None:
    start = Image.python("3.12")
    made = start.pip_install("numpy>=2").env({"A": "1"})
    assert start == Image.python("3.12") != made
    assert made == Image.python("3.12").pip_install("numpy>=2").env({"A": "1"})
    assert len({made, start, Image.python("3.12")}) == 2
    assert repr(made) == "Image.python('3.12').pip_install(…).env(…)"


def test_the_spec_of_a_recipe() -> None:
    spec = Image.python().pip_install("six", index_url="https://i/simple").run_function(fetch).to_spec(Gathered())
    assert spec.python == f"{sys.version_info[0]}.{sys.version_info[1]}"
    install, run = spec.steps
    assert install.args == {
        "requirements": ["six"],
        "index_url": "https://i/simple",
        "extra_index_url": None,
        "find_links": None,
    }
    assert (run.args["qualname"], run.args["bundle"], len(run.args["source"])) == ("fetch", "b" * 64, 64)


def test_local_has_interpreter_path_and_fingerprint_in_15_ms() -> None:
    took = []
    for _ in range(5):
        start = time.perf_counter()
        local = Image.local().to_spec(Gathered()).local
        took.append(time.perf_counter() - start)
    assert local is not None
    assert local.executable == sys.executable
    assert all(Path(entry).is_absolute() for entry in local.sys_path)
    assert min(took) < 0.015


def test_local_changes_digest_when_a_file_does(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("1")
    image = Image.python().add_local_dir(tmp_path, "data")
    first = image.to_spec(Gathered())
    assert image.to_spec(Gathered()).digest == first.digest
    (tmp_path / "f").write_text("2")
    assert image.to_spec(Gathered()).digest != first.digest


@pytest.mark.parametrize("version", ["3.9", "2.7", "3", "3.x", "4.0", "3.110", "latest", ""])
def test_versions_that_cannot_be(version: str) -> None:
    with pytest.raises(InvalidOption, match=r"Image\.python"):
        Image.python(version)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Image.python().pip_install("six", "numpy=1"), "pip_install argument 2: 'numpy=1'"),
        (lambda: Image.python().pip_install(), "names no requirement"),
        (lambda: Image.python().pip_install("six", index_url="mirror"), "is no URL"),
        (
            lambda: Image.python().pip_install("a", index_url="https://a").pip_install("b", index_url="https://b"),
            "an earlier step has another one",
        ),
        (lambda: Image.local().pip_install("six"), "would change it for everything else"),
        (lambda: Image.local().run_commands("true"), "would change it"),
        (lambda: Image.python().env({"A-B": "x"}), "no name for an environment variable"),
        (lambda: Image.python().env(WRONG), "A is 1 \\(int\\)"),
        (lambda: Image.python().run_commands(" "), "argument 1 is empty"),
        (lambda: Image.python().run_function(WRONG), "takes a function"),
        (lambda: Image.python().apt_install("; rm -rf /"), "no package name"),
        (lambda: Image.python().add_local_file(__file__, "/etc/x"), "STOKER_FILES"),
        (lambda: Image.python().add_local_file(__file__, "a/../../x"), "outside of the image"),
        (lambda: Image.python(WRONG), "is not a string"),
        (lambda: Image.python().add_local_python_source("a b"), "no module name"),
    ],
)
def test_bad_declarations_are_errors_at_once(declare: Callable[[], Image], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        declare()


def test_missing_files_are_errors_at_once(tmp_path: Path) -> None:
    declarations: list[Callable[[], Image]] = [
        lambda: Image.python().requirements(tmp_path / "absent.txt"),
        lambda: Image.python().uv_sync(tmp_path),
        lambda: Image.python().add_local_dir(tmp_path / "absent", "x"),
        lambda: Image.python().add_local_file(tmp_path, "x"),
        lambda: Image.python().add_local_python_source("zz_no_such_module"),
        lambda: Image.python().pip_install("six", find_links=tmp_path / "absent"),
    ]
    for declare in declarations:
        with pytest.raises(InvalidRequest):
            declare()


def test_a_slip_names_what_was_meant() -> None:
    kind: Any = Image
    with pytest.raises(InvalidOption, match=r"no image to begin with. Write Image.python\(\).pip_install"):
        kind.pip_install("numpy")
    with pytest.raises(AttributeError, match="Did you mean 'pip_install'"):
        kind.python().pip_instal("numpy")
    with pytest.raises(AttributeError, match=r"begins with Image.python\(\); it has: local, python, pip_install"):
        kind.debian_slim()
    with pytest.raises(InvalidOption, match=r"pip_install\(index=….*Did you mean 'index_url'"):
        kind.python().pip_install("numpy", index="https://example.org")
    assert not hasattr(kind.python(), "_nothing") and copy.deepcopy(kind.python()) == kind.python()

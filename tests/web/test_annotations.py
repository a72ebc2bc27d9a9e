"""An annotation that means nothing is an error, wherever that can be known."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import stoker
from stoker.web.interface import Interface

MODULE = """
from __future__ import annotations
import threading
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from elsewhere import Never
    import elsewhere.pictures as pictures
try:
    from elsewhere import Perhaps
except ImportError:
    pass

@dataclass
class Holder:
    x: int
    inner: Never

def never(image: pictures.Image, n: int = 1) -> Never: ...
def field(holder: Holder) -> None: ...
def perhaps(image: Perhaps, n: int) -> None: ...
class Plain: ...
def plain(x: Plain) -> None: ...
def plains(x: dict[str, list[Plain]]) -> None: ...
def thread(x: threading.Thread) -> None: ...
def both(first: Perhaps, second: Never) -> None: ...
def no_syntax(x: "1 +", n: int) -> None: ...
def returned(n: int) -> Never: ...
def inside(x: Local) -> None:
    Local = int
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "annotated.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("annotated")
    del sys.modules["annotated"]


def read(function: Any, *, elsewhere: bool) -> Interface:
    return Interface(function, ["POST"], label="app.f", runs_elsewhere=elsewhere)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "never",
            r"app\.f: the annotation of 'image' is 'pictures\.Image', .*NameError: name 'pictures' is not defined",
        ),
        ("field", r"the annotation of Holder\.inner \(of 'holder'\) is 'Never'"),
        ("both", r"the annotation of 'second'"),
        ("no_syntax", r"the annotation of 'x' is .*SyntaxError"),
        ("inside", r"the annotation of 'x' is 'Local'"),
    ],
)
def test_what_means_nothing_anywhere_is_refused_where_it_is_written(module: ModuleType, name: str, said: str) -> None:
    for elsewhere in (True, False):
        with pytest.raises(stoker.InvalidOption, match=said if elsewhere or name != "both" else "annotation of"):
            read(getattr(module, name), elsewhere=elsewhere)


def test_what_may_mean_something_in_the_worker_is_refused_there_alone(module: ModuleType) -> None:
    inputs = read(module.perhaps, elsewhere=True).inputs
    assert [(one.name, one.annotation) for one in inputs] == [("image", Any), ("n", int)]
    with pytest.raises(stoker.InvalidOption, match=r"'image' is 'Perhaps'.*stoker\.File"):
        read(module.perhaps, elsewhere=False)
    module.Perhaps = int  # type: ignore[attr-defined]
    assert read(module.perhaps, elsewhere=False).inputs[0].annotation is int


def test_a_class_that_may_stand_in_for_a_model_is_refused_in_the_worker_alone(module: ModuleType) -> None:
    for function in (module.plain, module.plains):
        assert read(function, elsewhere=True).inputs[0].annotation is Any
        with pytest.raises(stoker.InvalidOption, match=r"annotation of 'x'.* names Plain, .*dataclass"):
            read(function, elsewhere=False)
    with pytest.raises(stoker.InvalidOption, match=r"names Thread"):
        read(module.thread, elsewhere=True)


def test_what_is_returned_needs_no_meaning(module: ModuleType) -> None:
    assert read(module.returned, elsewhere=False).inputs[0].annotation is int


@dataclass
class Tree:
    name: str
    left: Tree | None = None


def test_a_class_may_name_itself() -> None:
    def grow(tree: Tree) -> None: ...

    assert read(grow, elsewhere=False).inputs[0].annotation is Tree

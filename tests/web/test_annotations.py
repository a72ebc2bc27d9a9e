"""An annotation that means nothing is an error, wherever that can be known."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import stoker
from stoker.web.interface import Interface
from stoker.web.openapi import describe
from stoker.web.scalars import Invalid

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


def test_a_class_that_nothing_is_read_as_is_refused_unless_it_may_stand_in_for_another(module: ModuleType) -> None:
    for function in (module.plain, module.plains):
        assert read(function, elsewhere=True).inputs[0].annotation is Any
    with pytest.raises(stoker.InvalidOption, match=r"annotation of 'x'.* names Thread, .*dataclass"):
        read(module.thread, elsewhere=True)


def test_a_worker_starts_with_what_was_deployed_before_it_was_refused(module: ModuleType) -> None:
    def batch(x: int) -> None: ...

    assert read(module.thread, elsewhere=False).inputs[0].convert(3, "$") == 3
    assert read(module.plains, elsewhere=False).inputs[0].convert({"a": [3]}, "$") == {"a": [3]}
    assert Interface(batch, ["POST"], label="app.f", is_batched=True).inputs[0].convert("a", "$") == "a"


def test_what_is_returned_needs_no_meaning(module: ModuleType) -> None:
    assert read(module.returned, elsewhere=False).inputs[0].annotation is int


@dataclass
class Tree:
    name: str
    left: Tree | None = None


def test_a_class_may_name_itself() -> None:
    def grow(tree: Tree) -> None: ...

    assert read(grow, elsewhere=False).inputs[0].annotation is Tree


def test_what_no_request_need_give_is_refused_in_the_request_that_gives_it() -> None:
    class Client: ...

    @dataclass
    class Config:
        x: int
        client: Client = field(default_factory=Client)
        again: dict[str, Client] = field(default_factory=dict)

    def ask(config: Config, log: logging.Logger = logging.root, client: Client | None = None) -> None: ...

    hints = {"config": Config, "log": logging.Logger, "client": Client | None}
    Config.__annotations__ = {"x": int, "client": Client, "again": dict[str, Client]}
    ask.__annotations__ = hints
    for elsewhere in (True, False):
        config, log, client = read(ask, elsewhere=elsewhere).inputs
        assert config.convert({"x": 1}, "$").x == 1
        assert client.convert(None, "$.client") is None
        for one, value in ((config, {"x": 1, "client": 1}), (config, {"x": 1, "again": {"a": 1}}), (log, "a")):
            with pytest.raises(Invalid, match=r"nothing that a request brings can be read as .*: leave it out"):
                one.convert(value, "$")
        with pytest.raises(Invalid, match="Client, null, not 1"):
            client.convert(1, "$")


ALIASES = """
import dataclasses
type Json = dict[str, Json] | list[Json] | str | int | None
type Tree[T] = T | list[Tree[T]]
type Pair[A, B] = dict[A, list[B]]
type Itself = Itself
type Grows[T] = T | list[Grows[list[T]]]
type Lost = Nowhere
@dataclasses.dataclass
class Meta:
    json: Json
    pairs: Pair[int, float] | None = None
def json(x: Json) -> Json: ...
def tree(x: Tree[int]): ...
def grows(x: Grows[int]): ...
def itself(x: Itself): ...
def meta(x: Meta): ...
def lost(x: Lost): ...
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="that is when it came into the language")
def test_a_name_of_a_type_may_stand_in_itself() -> None:
    made: dict[str, Any] = {"__name__": __name__}
    exec(compile(ALIASES, "aliases", "exec", dont_inherit=True), made)
    deep = {"a": [{"b": [1, None]}]}
    for name, value in (("json", deep), ("tree", [[1], 2]), ("grows", [[1]])):
        (one,) = read(made[name], elsewhere=True).inputs
        assert one.convert(value, "$") == value
        assert json.loads(describe(made[name], read(made[name], elsewhere=True), method="POST", streams=False))
    (one,) = read(made["meta"], elsewhere=True).inputs
    assert one.convert({"json": deep, "pairs": {"1": [2]}}, "$") == made["Meta"](deep, {1: [2.0]})
    with pytest.raises(Invalid, match="expected one of int, list, not"):
        read(made["tree"], elsewhere=True).inputs[0].convert("a", "$")
    with pytest.raises(stoker.InvalidOption, match=r"annotation of 'x' is 'Lost'.* name 'Nowhere' is not defined"):
        read(made["lost"], elsewhere=False)
    with pytest.raises(stoker.InvalidOption, match="names Itself"):
        read(made["itself"], elsewhere=True)

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
import typer

from stoker.cli.parameters import parse
from stoker.errors import InvalidRequest


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def everything(  # type: ignore[no-untyped-def]
    points: int = 8,
    rate: float = 0.5,
    *,
    name: str = "x",
    verbose: bool = False,
    out: Path = Path(),
    colour: Colour = Colour.RED,
    mode: Literal["fast", "slow"] = "fast",
    limit: Optional[int] = None,  # noqa: UP045 - what users write
    other: int | None = None,
    many: list[float] | None = None,
    when: datetime | None = None,
    noted: Annotated[int, "how many there are"] = 3,
    guessed=4,
) -> None:
    """Do everything.

    At once.
    """


def test_no_options_give_the_defaults() -> None:
    values = parse(everything, [], program="p")
    assert values is not None
    assert values["points"] == 8
    assert values["colour"] is Colour.RED
    assert values["limit"] is None
    assert values["guessed"] == 4


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--points", "3"], "points", 3),
        (["--rate=2"], "rate", 2.0),
        (["--name", "a b"], "name", "a b"),
        (["--verbose"], "verbose", True),
        (["--verbose", "--no-verbose"], "verbose", False),
        (["--out", "a/b"], "out", Path("a/b")),
        (["--colour", "blue"], "colour", Colour.BLUE),
        (["--mode", "slow"], "mode", "slow"),
        (["--limit", "7"], "limit", 7),
        (["--other", "7"], "other", 7),
        (["--many", "1", "--many", "2.5"], "many", [1.0, 2.5]),
        (["--when", "2026-01-02"], "when", datetime(2026, 1, 2)),
        (["--guessed", "5"], "guessed", 5),
    ],
)
def test_each_type_is_read(arguments: list[str], name: str, value: Any) -> None:
    values = parse(everything, arguments, program="p")
    assert values is not None
    assert values[name] == value
    assert type(values[name]) is type(value) or isinstance(value, Path)


def test_help_shows_the_docstring_and_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(everything, ["--help"], program="stoker run x.py") is None
    out = capsys.readouterr().out
    for text in ("stoker run x.py", "Do everything.", "--points", "--no-verbose", "how many there are", "red|blue"):
        assert text in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pionts", "3"], "--points"),
        (["--points", "many"], "--points"),
        (["--mode", "medium"], "fast"),
        (["stray"], "stray"),
    ],
)
def test_mistakes_are_usage_errors_that_name_the_option(arguments: list[str], said: str) -> None:
    with pytest.raises(typer.BadParameter.__mro__[1]) as caught:
        parse(everything, arguments, program="p")
    assert said in caught.value.format_message()  # type: ignore[attr-defined]


def test_a_parameter_without_default_is_required() -> None:
    def function(x: int) -> None: ...

    with pytest.raises(typer.BadParameter.__mro__[1]) as caught:
        parse(function, [], program="p")
    assert "--x" in caught.value.format_message()  # type: ignore[attr-defined]


def _takes_dict(options: dict[str, int]) -> None: ...
def _takes_any_number(*values: int) -> None: ...
def _takes_unknown(value: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_takes_dict, "dict[str, int], which cannot be written on a command line"),
        (_takes_any_number, r"\*values"),
        (_takes_unknown, "Unknown"),
    ],
)
def test_what_cannot_be_an_option_is_said(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said.replace("[", r"\[")):
        parse(function, [], program="p")

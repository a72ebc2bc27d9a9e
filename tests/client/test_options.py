from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

import stoker
from stoker.client.options import LATER, FunctionOptions
from stoker.types import OptionsSpec, RetrySpec


def test_the_defaults() -> None:
    assert FunctionOptions().to_spec() == OptionsSpec()


def test_values_are_read() -> None:
    spec = FunctionOptions.of(
        {
            "cpu": 0.5,
            "memory": "512MiB",
            "timeout": "5m",
            "idle_timeout": timedelta(seconds=3),
            "deadline": 2,
            "retries": stoker.Retries(max_retries=3, initial_delay="2s", on=[ValueError]),
            "tags": {"team": "a"},
        }
    ).to_spec()
    assert (spec.cpu, spec.memory, spec.timeout, spec.idle_timeout) == (0.5, 512 << 20, 300.0, 3.0)
    assert spec.deadline == 2.0
    assert spec.retries == RetrySpec(max_retries=3, initial_delay=2.0, on=["builtins.ValueError"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"memroy": 1}, "Did you mean 'memory'"),
        ({"cpus": 1}, "Did you mean 'cpu'"),
        ({"zzzzzz": 1}, "Options are: image, cpu"),
        ({"memory": "auto"}, "not available in this version"),
        ({"memory": "5 parsecs"}, "is not a size"),
        ({"cpu": 0}, "number of cores"),
        ({"cpu": True}, "number of cores"),
        ({"timeout": "soon"}, "is not a duration"),
        ({"retries": -1}, "stoker.Retries"),
        ({"concurrency": 0}, "at least 1"),
        ({"concurrency": 1.5}, "whole number"),
        ({"min_workers": 3, "max_workers": 2}, "more than max_workers=2"),
        ({"env": {"A": 1}}, "Write env={'A': '1'}"),
        ({"env": ["A"]}, "is not a dictionary"),
        ({"env": {"A=B": "x"}}, "is not a name"),
        ({"image": "python:3.11"}, "is not an image"),
        ({"priority": 10_000}, "-1000 to 1000"),
        ({"workdir": 5}, "is not a text"),
    ],
)
def test_bad_options_say_what_is_wrong(given: dict[str, Any], says: str) -> None:
    with pytest.raises(stoker.InvalidOption, match=re.escape(says)):
        FunctionOptions.of(given)


@pytest.mark.parametrize("name", sorted(LATER))
def test_options_of_later_versions_are_told(name: str) -> None:
    with pytest.raises(stoker.InvalidOption, match="not available in this version"):
        FunctionOptions.of({name: 1})


def test_an_unknown_option_is_a_type_error_too() -> None:
    app = stoker.App("options")
    with pytest.raises(TypeError):
        app.function(memroy="1GiB")  # type: ignore[call-overload]


def test_a_functions_options_go_over_its_apps() -> None:
    image = stoker.Image.python("3.11")
    options = FunctionOptions(env={"A": "2"}).over(image=image, env={"A": "1", "B": "1"}, tags={"t": "x"})
    assert options.image is image
    assert options.env == {"A": "2", "B": "1"}
    assert options.tags == {"t": "x"}


@pytest.mark.parametrize("given", [{"backoff": 0.5}, {"max_retries": -1}, {"on": [3]}, {"initial_delay": "x"}])
def test_bad_retries(given: dict[str, Any]) -> None:
    with pytest.raises(stoker.InvalidOption):
        stoker.Retries(**given)

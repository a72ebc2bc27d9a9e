"""What a shadow has answered beside the current version: counted, with bounded examples."""

from __future__ import annotations

import json

import pytest

from stoker.core.comparison import EXAMPLE_CHARS, EXAMPLES_MAX, SAMPLES_MAX, Answer, Comparison, alike, percentile


def as_json(text: str, *, said: str = "200") -> Answer:
    return Answer(said, False, text.encode(), is_json=True)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": [1, 2]}', '{"b":[1,2],"a":1.0}', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 1}', '{"a": "1"}', False),
        ("[1, 2]", "[2, 1]", False),
        ("[0.1]", "[0.10]", True),
        ("[1e400]", "[1e400]", True),
        ("{broken", "{broken", True),
        ("{broken", "[]", False),
        ("[" * 100_000, "[" * 100_000 + "]", False),
    ],
)
def test_json_is_compared_by_what_it_says(one: str, other: str, *, same: bool) -> None:
    assert alike(as_json(one), as_json(other)) is same


def test_everything_else_is_compared_by_its_bytes_and_its_status() -> None:
    assert alike(Answer("value", False, b"x"), Answer("value", False, b"x"))
    assert not alike(Answer("value", False, b"1.0"), Answer("value", False, b"1"))
    assert not alike(as_json("1"), as_json("1", said="201"))
    assert not alike(as_json("1"), Answer("200", False, b"1"))
    assert alike(Answer("value", False, digest="a"), Answer("value", False, digest="a"))
    assert not alike(Answer("value", False, digest="a"), Answer("value", False, digest="b"))


def test_errors_are_alike_by_their_type() -> None:
    assert alike(Answer("ValueError", True, error="of call 1"), Answer("ValueError", True, error="of call 2"))
    assert not alike(Answer("ValueError", True, error="x"), Answer("KeyError", True, error="x"))


def test_what_was_found_is_counted_and_stays_small() -> None:
    found = Comparison(since=5.0)
    good, bad = as_json("1"), Answer("ValueError", True, error="no " * 1000)
    for n in range(3 * SAMPLES_MAX):
        found.add(f"c-{n}", "a.f", good._replace(seconds=n / 1000), good._replace(seconds=1.0))
    for n in range(20):
        found.add(f"d-{n}", "a.f", good, bad)
        found.add(f"e-{n}", "a.f", bad, good)
        found.add(f"f-{n}", "a.f", good, as_json("2" * 1000))
        found.add(f"g-{n}", "a.f", bad, bad)
    found.shed["load"] += 2
    told = json.loads(json.dumps(found.report()))
    assert (told["compared"], told["equal"], told["different"]) == (3 * SAMPLES_MAX + 80, 3 * SAMPLES_MAX + 20, 20)
    assert (told["failed_in_shadow"], told["failed_in_current"], told["shed"]) == (20, 20, {"load": 2})
    assert len(told["examples"]) == EXAMPLES_MAX
    assert all(len(one[side]) < EXAMPLE_CHARS + 20 for one in told["examples"] for side in ("current", "shadow"))
    assert told["seconds"]["current"]["p50"] > 2.0, "of the latest ones"
    assert told["seconds"]["shadow"]["p99"] == 1.0


def test_percentiles() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.99) == 3.0
    samples = [float(n) for n in range(100)]
    assert (percentile(samples, 0.5), percentile(samples, 0.99)) == (50.0, 99.0)


def test_an_example_of_bytes_says_how_many() -> None:
    found = Comparison(since=0.0)
    found.add("c", "a.f", Answer("value", False, b"\x00\x01"), Answer("value", False, b"\x80"))
    found.add("c", "a.f", Answer("value", False, digest="0123456789abcdef"), Answer("value", False, b"ok"))
    assert [(one["current"], one["shadow"]) for one in found.report()["examples"]] == [
        ("value: 2 bytes", "value: 1 bytes"),
        ("value: a body with the digest 0123456789ab", "value: ok"),
    ]

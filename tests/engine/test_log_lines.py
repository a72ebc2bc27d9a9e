from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.engine.local.log_lines import Joiner, Line, on_screen, parse_lines


def joined(*pieces: bytes) -> list[tuple[str, str, str]]:
    joiner = Joiner()
    lines = [*joiner.join(line for piece in pieces for line in parse_lines(piece)), *joiner.rest()]
    return [(line.call, line.stream, line.text) for line in lines]


def test_lines_belong_to_their_calls() -> None:
    assert joined(b"native\n\x1ec1\x1fo\x1fhello\npartial\x1ec2\x1fe\x1foops\r\n\n\x1e\x1fs\x1fnote") == [
        ("", "stdout", "native"),
        ("c1", "stdout", "hello"),
        ("", "stdout", "partial"),
        ("c2", "stderr", "oops"),
        ("", "stdout", ""),
        ("", "stoker", "note"),
    ]


def test_pieces_make_one_line_whoever_prints_between() -> None:
    found = joined(b"\x1ec1\x1fO\x1fone ", b"\x1ec2\x1fo\x1fother", b"\x1ec1\x1fE\x1ferr", b"\x1ec1\x1fo\x1ftwo")
    assert found == [("c2", "stdout", "other"), ("c1", "stdout", "one two"), ("c1", "stderr", "err")]


def test_a_progress_bar_is_shown_now_and_then_and_at_its_end() -> None:
    now = 0.0
    joiner = Joiner(clock=lambda: now, progress=5.0)
    shown: list[str] = []
    for percent in range(0, 101, 10):
        now = percent / 10
        piece = Line("c", "stderr", f"\r{percent} %", goes_on=percent < 100)
        shown += [line.text for line in joiner.join([piece])]
    assert shown == ["0 %", "50 %", "100 %"]


def test_what_was_rewritten_is_what_was_written_last() -> None:
    assert joined(b"a\rbb\rccc\r\n\x1ec\x1fO\x1f10 %\r\n\x1ec\x1fO\x1f20 %\r\n\x1ec\x1fo\x1f")[-1] == (
        "c",
        "stdout",
        "20 %",
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\rb", "b"),
        ("abc\rX", "Xbc"),
        ("abc\r", "abc"),
        ("\rabc", "abc"),
        ("10%|#   |\r50%|##  |\r100%", "100%##  |"),
        ("long text\rshort    ", "short"),
        ("long text\r\x1b[2Kshort", "short"),
        ("long text\rshort\x1b[K", "short"),
        ("long text\r\x1b[32mgreen\x1b[0m", "\x1b[32mgreen\x1b[0m"),
        ("in one piece", "in one piece"),
    ],
)
def test_a_line_is_what_a_terminal_shows_of_it(text: str, shown: str) -> None:
    assert on_screen(text)[0] == shown
    halves = [b"\x1ec\x1fO\x1f" + text[:3].encode(), b"\x1ec\x1fo\x1f" + text[3:].encode()]
    assert joined(*halves) == [("c", "stdout", shown)]


def test_lines_have_the_time_of_the_stamp_before_them() -> None:
    lines = Joiner().join(
        parse_lines(b"early\n\x1e\x1ft\x1f3e8\n\x1ec\x1fo\x1fone\nnative\n\x1e\x1ft\x1fodd\n\x1ec\x1fo\x1f?")
    )
    assert [(line.text, line.time) for line in lines] == [("early", 0.0), ("one", 1.0), ("native", 1.0), ("?", 0.0)]


@given(st.binary(max_size=200))
def test_any_bytes_are_lines(data: bytes) -> None:
    assert all(stream in {"stdout", "stderr", "stoker"} for _, stream, _ in joined(data))

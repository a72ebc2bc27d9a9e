from __future__ import annotations

import io

import pytest

import stoker
from stoker.client import notices
from stoker.protocol.messages import Notice


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_output_has_its_functions_name_before_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    notices.show(Notice("log", {"function": "a.f", "streams": ["stdout", "stderr"], "texts": ["one\ntwo\n", "oh"]}))
    captured = capsys.readouterr()
    assert captured.out == "a.f | one\na.f | two\n"
    assert captured.err == "a.f | oh\n"


def test_output_can_be_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    with stoker.enable_output(output=False, progress=False):
        notices.show(Notice("log", {"function": "a.f", "texts": ["one"]}))
    assert capsys.readouterr().out == ""


def test_a_build_is_told_once_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        notices.show(Notice("phase", {"function": "b.f", "phase": "building", "detail": "installing 12 packages"}))
    notices.show(Notice("phase", {"function": "b.f", "phase": "starting"}))
    assert capsys.readouterr().err == "building environment for b.f: installing 12 packages\n"


def test_the_status_line_is_erased_under_output(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    screen = notices.Screen()
    screen.status("half way")
    screen.line("f | hello", terminal)
    assert terminal.getvalue() == "half way\r\x1b[2Kf | hello\nhalf way"


def test_a_bar_says_how_far_and_how_fast() -> None:
    bar = notices.Progress("a.f")
    assert "5/10" in bar._text(5, 10, 1.0)
    assert "5 s left" in bar._text(5, 10, 5.0)
    assert "7 done" in bar._text(7, None, 1.0)

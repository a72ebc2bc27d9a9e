from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys

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


def test_a_wait_is_told_once_and_without_its_details(capsys: pytest.CaptureFixture[str]) -> None:
    detail = "for 2 CPUs to be free; 1 of 2 is"
    for _ in range(2):
        notices.show(Notice("phase", {"function": "two.f", "phase": "waiting", "detail": detail}))
    notices.show(Notice("phase", {"function": "two.f", "phase": "running"}))
    assert capsys.readouterr().err == "two.f waits for 2 CPUs to be free\n"


def test_a_wait_is_the_status_line_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    notices.show(Notice("phase", {"function": "two.g", "phase": "waiting", "detail": "for a GPU"}))
    notices.show(Notice("phase", {"function": "two.g", "phase": "starting"}))
    assert terminal.getvalue() == "two.g waits for a GPU\r\x1b[2K"
    assert sys.stderr is terminal


PROGRAM = """
import os, sys
from stoker.client.notices import screen
own = sys.stdout, sys.stderr
screen.status("half way")
print("result", 0)
print("dots", end="")
screen.status("nearly")
print(".")
assert sys.stdout.isatty() and sys.stdout.fileno() == 1 and sys.stdout.encoding == own[0].encoding
try:
    sys.stdout.write(5)
except TypeError:
    pass
print("oh", file=sys.stderr)
kept = sys.stdout
screen.status("")
assert (sys.stdout, sys.stderr) == own
print("later", file=kept)
"""


def test_what_the_program_prints_goes_round_the_status_line() -> None:
    ours, theirs = os.openpty()
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # Linux says EIO once the program has ended
        while chunk := os.read(ours, 4096):
            written += chunk
    os.close(ours)
    assert program.wait(10) == 0
    erase = "\r\x1b[2K"
    expected = f"half way{erase}result 0\nhalf way{erase}dots.\nnearly{erase}nearly{erase}oh\nnearly{erase}later\n"
    assert written.decode().replace("\r\n", "\n") == expected


def test_nothing_stands_in_for_what_is_no_terminal() -> None:
    before = sys.stdout, sys.stderr
    screen = notices.Screen()
    screen.status("half way")
    assert (sys.stdout, sys.stderr) == before


def test_output_for_a_stream_that_was_closed_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    notices.show(Notice("log", {"function": "a.f", "streams": ["stdout"], "texts": ["one"]}))

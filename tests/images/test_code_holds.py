"""Unpacked source: what is in use, or was lately, stays; the rest goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from stoker.images.code_holds import GUARDS, CodeHold, sweep

DAY = 86400.0


def unpacked(root: Path, name: str) -> Path:
    path = root / name
    if name.endswith(".pickle"):
        root.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    else:
        path.mkdir(parents=True)
        (path / "module.py").write_text("")
    CodeHold(root, [name]).release()
    return path


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def in_days(days: float) -> float:
    return time.time() + days * DAY


def test_what_nobody_has_used_for_long_goes(tmp_path: Path) -> None:
    old = [unpacked(tmp_path, "aa"), unpacked(tmp_path, "bb.pickle")]
    assert sweep(tmp_path, clock=lambda: in_days(6.9)) == []
    assert sorted(sweep(tmp_path, clock=lambda: in_days(7.1))) == ["aa", "bb.pickle"]
    assert not any(path.exists() for path in old)
    assert names(tmp_path / GUARDS) == []


def test_what_is_held_stays_however_old(tmp_path: Path) -> None:
    path = unpacked(tmp_path, "aa")
    first = CodeHold(tmp_path, ["aa"])
    second = first.again()
    first.release()
    first.release()
    assert sweep(tmp_path, clock=lambda: in_days(30)) == []
    second.release()
    assert sweep(tmp_path, clock=lambda: in_days(30)) == ["aa"]
    assert not path.exists()


def test_use_makes_it_young_again(tmp_path: Path) -> None:
    unpacked(tmp_path, "aa")
    os.utime(tmp_path / GUARDS / "aa.use", (1.0, 1.0))
    CodeHold(tmp_path, ["aa"]).release()
    assert sweep(tmp_path) == []


def test_what_was_unpacked_without_a_guard_is_counted_from_the_first_look(tmp_path: Path) -> None:
    (tmp_path / "aa").mkdir()
    os.utime(tmp_path / "aa", (1.0, 1.0))
    assert sweep(tmp_path) == []
    assert sweep(tmp_path, clock=lambda: in_days(8)) == ["aa"]


def test_what_was_left_half_made_goes_and_guards_of_nothing_with_it(tmp_path: Path) -> None:
    draft = tmp_path / ".aa-x1"
    draft.mkdir()
    CodeHold(tmp_path, ["never"]).release()
    assert sweep(tmp_path) == []
    assert draft.exists()
    assert sweep(tmp_path, clock=lambda: in_days(8)) == []
    assert names(tmp_path) == [GUARDS]
    assert names(tmp_path / GUARDS) == []


def test_no_directory_is_no_error(tmp_path: Path) -> None:
    assert sweep(tmp_path / "none") == []

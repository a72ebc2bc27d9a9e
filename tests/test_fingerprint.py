from __future__ import annotations

import sys
import time
from pathlib import Path

from stoker.fingerprint import fingerprint


def _install(site: Path, name: str) -> Path:
    record = site / f"{name}.dist-info" / "RECORD"
    record.parent.mkdir(parents=True)
    record.write_text(name)
    return record


def test_it_changes_with_what_is_installed_and_not_with_other_files(tmp_path: Path) -> None:
    record = _install(tmp_path, "six-1.0")
    first = fingerprint(sys.executable, [str(tmp_path)])
    (tmp_path / "mine.py").write_text("x = 1")
    assert fingerprint(sys.executable, [str(tmp_path)]) == first
    record.write_text("installed again")
    second = fingerprint(sys.executable, [str(tmp_path)])
    _install(tmp_path, "new-2.0")
    third = fingerprint(sys.executable, [str(tmp_path)])
    assert len({first, second, third, fingerprint(sys.executable, []), fingerprint("/bin/sh", [str(tmp_path)])}) == 5


def test_missing_entries_and_files_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("x")
    assert fingerprint("/absent/python", [str(tmp_path / "absent"), str(tmp_path / "a.zip")])


def test_two_hundred_distributions_take_under_15_ms(tmp_path: Path) -> None:
    for number in range(200):
        _install(tmp_path, f"package{number}-1.0")
    took = []
    for _ in range(5):
        start = time.perf_counter()
        fingerprint(sys.executable, [str(tmp_path)])
        took.append(time.perf_counter() - start)
    assert min(took) < 0.015

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stoker.runner.installed import installed


def test_what_can_be_imported_is_told_by_name_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in (
        ("first", "Some_Thing-1.2.dist-info"),
        ("first", "no_version.egg-info"),
        ("second", "some.thing-0.9.dist-info"),
        ("second", "older-3.0-py3.11.egg-info"),
    ):
        (tmp_path / place / name).mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "missing"), str(tmp_path / "second")])
    installed.cache_clear()
    try:
        python = ".".join(map(str, sys.version_info[:2]))
        assert installed() == ["older==3.0-py3.11", f"python=={python}", "some-thing==1.2"]
    finally:
        installed.cache_clear()

from __future__ import annotations

from pathlib import Path

from stoker.images.pip_settings import uv_variables


def test_pips_variables_are_handed_on() -> None:
    given = {"PIP_INDEX_URL": "https://m/s", "PIP_FIND_LINKS": "/wheels /more"}
    assert uv_variables(given, files=[]) == {
        "UV_DEFAULT_INDEX": "https://m/s",
        "UV_FIND_LINKS": "/wheels,/more",
    }


def test_what_uv_was_told_wins() -> None:
    given = {
        "PIP_INDEX_URL": "https://m/s",
        "PIP_FIND_LINKS": "/a",
        "UV_INDEX_URL": "x",
        "UV_FIND_LINKS": "/b",
    }
    assert uv_variables(given, files=[]) == {}


def test_configuration_files_later_ones_win_and_variables_last(tmp_path: Path) -> None:
    (tmp_path / "one").write_text(
        "[global]\nindex-url = https://one/simple\nextra-index-url =\n  https://a/s\n  https://b/s\n"
    )
    (tmp_path / "two").write_text("[install]\nindex-url = https://two/simple\n")
    (tmp_path / "bad").write_text("no section")
    files = [tmp_path / "one", tmp_path / "two", tmp_path / "bad", tmp_path / "absent"]
    assert uv_variables({}, files=files) == {
        "UV_DEFAULT_INDEX": "https://two/simple",
        "UV_INDEX": "https://a/s https://b/s",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    assert (
        uv_variables({"PIP_INDEX_URL": "https://three/simple"}, files=files)["UV_DEFAULT_INDEX"]
        == "https://three/simple"
    )

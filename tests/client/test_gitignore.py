from __future__ import annotations

from pathlib import Path

import pathspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.client.gitignore import GitIgnore, outer_rules

_special = st.sampled_from(["**", "*.py", "[ab]", "[!a]b", "a b", "\\*"])
_part = st.text(alphabet="ab*?", min_size=1, max_size=4) | _special
_pattern = st.builds(
    lambda bang, slash, parts, end: bang + slash + "/".join(parts) + end,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(_part, min_size=1, max_size=3),
    st.sampled_from(["", "/"]),
)
_path = st.lists(st.sampled_from(["a", "b", "ab", "x.py", "a b", "*"]), min_size=1, max_size=4).map("/".join)


@settings(max_examples=1500, deadline=None)
@given(st.lists(_pattern, min_size=1, max_size=4), _path)
def test_agrees_with_pathspec(patterns: list[str], path: str) -> None:
    ours = GitIgnore().extended("", "\n".join(patterns))
    theirs = pathspec.GitIgnoreSpec.from_lines(patterns)
    # With a negation, theirs may take back what lies below an excluded directory; git, and a walk, cannot.
    # And `x/**/` names directories: theirs takes a file for one, `git check-ignore` does not.
    if not any(pattern.startswith("!") or pattern.endswith("**/") for pattern in patterns):
        assert ours.ignores_below(path) == theirs.match_file(path)


@pytest.mark.parametrize(
    ("text", "path", "is_dir", "ignored"),
    [
        ("*.log", "deep/x.log", False, True),
        ("/x.log", "deep/x.log", False, False),
        ("build/", "build", False, False),
        ("build/", "deep/build", True, True),
        ("a/b", "c/a/b", False, False),
        ("**/a/b", "c/a/b", False, True),
        ("a/**", "a", True, False),
        ("a/**/b", "a/b", False, True),
        ("*.py\n!keep.py", "keep.py", False, False),
        ("# x\n\\#x", "#x", False, True),
        ("x ", "x", False, True),
        ("x\\ ", "x ", False, True),
        ("[a-c]1", "b1", False, True),
        ("[!a-c]1", "b1", False, False),
        ("[", "[", False, False),
    ],
)
def test_the_rules_one_by_one(text: str, path: str, is_dir: bool, ignored: bool) -> None:
    assert GitIgnore().extended("", text).ignores(path, is_dir=is_dir) is ignored


def test_inner_files_win_over_outer_ones(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*.dat\n/pkg/secret.txt\n")
    (tmp_path / "pkg").mkdir()
    rules = outer_rules(tmp_path / "pkg")
    assert rules.ignores("x.dat", is_dir=False)
    assert rules.ignores("secret.txt", is_dir=False)
    assert not rules.extended("in", "!x.dat").ignores("in/x.dat", is_dir=False)
    assert rules.extended("in", "!x.dat").ignores("x.dat", is_dir=False)

"""The rules of ``.gitignore`` files, as `git` reads them.

Supported: comments, ``!`` negation, ``/`` anchoring, directory-only patterns, ``*``, ``?``, ``[a-z]``, ``**``, escapes.
A file below an excluded directory cannot be included again, so whoever walks a tree does not enter those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Rule:
    """One line. ``regex`` matches ``outer`` + a path, where ``outer`` leads from the file's directory to the tree's."""

    regex: re.Pattern[str]
    negated: bool
    directory_only: bool
    outer: str = ""

    def matches(self, path: str, *, is_dir: bool) -> bool:
        return (is_dir or not self.directory_only) and self.regex.match(self.outer + path) is not None


class GitIgnore:
    """The rules of several ``.gitignore`` files, each for its own directory; immutable.

    Paths are relative to the tree's root, with forward slashes.
    """

    def __init__(self, scopes: tuple[tuple[str, tuple[Rule, ...]], ...] = ()) -> None:
        self._scopes = scopes

    def extended(self, directory: str, text: str) -> GitIgnore:
        """Return these rules plus those of one more file, which lies in ``directory`` (``""``: the root)."""
        rules = parse(text)
        prefix = f"{directory}/" if directory else ""
        return GitIgnore((*self._scopes, (prefix, rules))) if rules else self

    def ignores(self, path: str, *, is_dir: bool) -> bool:
        """Tell whether this very path is excluded. The last rule that matches decides, inner files first."""
        for prefix, rules in reversed(self._scopes):
            if not path.startswith(prefix):
                continue
            relative = path[len(prefix) :]
            for rule in reversed(rules):
                if rule.matches(relative, is_dir=is_dir):
                    return not rule.negated
        return False

    def ignores_below(self, path: str, *, is_dir: bool = False) -> bool:
        """Tell whether the path, or a directory above it, is excluded."""
        parts = path.split("/")
        above = any(self.ignores("/".join(parts[:depth]), is_dir=True) for depth in range(1, len(parts)))
        return above or self.ignores(path, is_dir=is_dir)


def outer_rules(directory: Path) -> GitIgnore:
    """Return the rules that the files above ``directory``, up to the repository's root, have for paths in it."""
    above: list[Path] = []
    for parent in (directory, *directory.parents):
        above.append(parent)
        if (parent / ".git").exists():
            break
    else:
        return GitIgnore()
    scopes = []
    for parent in reversed(above[1:]):
        if rules := read_rules(parent / ".gitignore"):
            inner = directory.relative_to(parent).as_posix() + "/"
            scopes.append(("", tuple(replace(rule, outer=inner) for rule in rules)))
    return GitIgnore(tuple(scopes))


def read_rules(file: Path) -> tuple[Rule, ...]:
    """Return the rules of a file, none where it is missing."""
    try:
        return parse(file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ()


@lru_cache(maxsize=256)
def parse(text: str) -> tuple[Rule, ...]:
    """Read the text of one ``.gitignore`` file."""
    return tuple(rule for line in text.splitlines() if (rule := _rule(line)) is not None)


def _rule(line: str) -> Rule | None:
    line = _without_trailing_spaces(line)
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    if negated:
        line = line[1:]
    directory_only = line.endswith("/")
    line = line.rstrip("/") if directory_only else line
    if not line:
        return None
    anchored = "/" in line
    line = line[1:] if line.startswith("/") else line
    body = _translate(line) if anchored else f"(?:.*/)?{_translate(line)}"
    try:
        return Rule(re.compile(body + r"\Z", re.DOTALL), negated, directory_only)
    except re.error:  # git takes a malformed pattern to match nothing
        return None


def _without_trailing_spaces(line: str) -> str:
    stripped = line.rstrip(" \t\r")
    return stripped + " " if stripped.endswith("\\") and len(stripped) < len(line) else stripped


def _translate(pattern: str) -> str:
    out: list[str] = []
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            out.append("(?:.*/)?")
            at += 3
        elif pattern[at:] == "**" and at and pattern[at - 1] == "/":
            out.append(".+")
            at += 2
        else:
            piece, at = _translate_one(pattern, at)
            out.append(piece)
    return "".join(out)


def _translate_one(pattern: str, at: int) -> tuple[str, int]:
    char = pattern[at]
    if char == "*":
        while pattern[at : at + 1] == "*":
            at += 1
        return "[^/]*", at
    if char == "?":
        return "[^/]", at + 1
    if char == "\\":
        return re.escape(pattern[at + 1 : at + 2]), at + 2
    if char == "[":
        return _translate_class(pattern, at)
    return re.escape(char), at + 1


def _translate_class(pattern: str, at: int) -> tuple[str, int]:
    start = at + 1
    negated = pattern[start : start + 1] in {"!", "^"}
    start += negated
    end = pattern.find("]", start + 1)  # a bracket that comes first is a member
    if end < 0:
        return "(?!)", len(pattern)
    body = re.sub(r"([\\\[&~|^\]])", r"\\\1", pattern[start:end])
    return f"(?!/)[{'^' if negated else ''}{body}]", end + 1

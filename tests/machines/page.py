"""A page of the documentation as a play: the commands in its ``console`` blocks, and what it shows of their output.

A command stands behind the name of its machine (``head$ …``); the lines up to the next one are shown of its output. In
them ``…`` stands for anything, and as a line for any lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

PROMPT = re.compile(r"([a-z][a-z0-9-]*)\$ (.*)")


@dataclass
class Step:
    """One command of a page. ``line``: where it stands there."""

    machine: str
    command: str
    line: int
    shown: list[str] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        return bool(self.shown) and self.shown[0].startswith("error:")

    def missing(self, output: str) -> str:
        """Return the first line that the page shows and the output has not, empty where it has all."""
        lines = [_plain(line) for line in output.splitlines()]  # rows have no order that could be promised
        for shown in self.shown:
            pattern = re.escape(_plain(shown)).replace(r"\ …\ ", r"\ (?:.*\ )?").replace("…", ".*")
            if not any(re.fullmatch(pattern, line) for line in lines):
                return shown
        return ""


def steps(page: Path) -> list[Step]:
    found: list[Step] = []
    kind = ""
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.startswith("```"):
            kind = "" if kind else line.removeprefix("```") or "text"
        elif kind == "console" and (prompt := PROMPT.fullmatch(line)):
            found.append(Step(prompt[1], prompt[2], number))
        elif kind == "console" and line != "…":
            found[-1].shown.append(line)
    return found


def programs(page: Path) -> dict[str, str]:
    """Return the programs of a page by the file names in their first lines."""
    blocks = re.findall(r"^```python\n(# (\S+\.py)\n.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {name: text for text, name in blocks}


def _plain(line: str) -> str:
    """Return a line with single spaces between its words, and before and after them."""
    return f" {' '.join(line.split())} "

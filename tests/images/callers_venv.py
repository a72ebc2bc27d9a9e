"""An environment such as a user has: a package from an index, an editable project and one from a directory."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from stoker.images.uv_tool import Uv

_PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "{version}"
{more}
"""
_EDITABLE = """
from importlib.metadata import version

VERSION = version("their-lab")

def main():
    print("lab", VERSION)
"""


@dataclass(frozen=True)
class CallersVenv:
    """``python`` starts it; `take_away` makes this machine another one, as far as it is concerned."""

    root: Path

    @property
    def python(self) -> str:
        return str(self.root / "venv" / "bin" / "python")

    def take_away(self) -> None:
        shutil.rmtree(self.root)


def make_venv(root: Path, python: str) -> CallersVenv:
    """Make one below ``root``: ``six``, ``their-lab`` (editable) and ``their-tables`` (from a directory)."""
    made = CallersVenv(root)
    lab, tables = root / "lab", root / "tables"
    scripts = 'dependencies = ["six", "their-tables"]\nscripts = { lab-tool = "their_lab:main" }'
    _write(lab / "pyproject.toml", _PYPROJECT.format(name="their-lab", version="0.3.dev1", more=scripts))
    _write(lab / "src" / "their_lab" / "__init__.py", _EDITABLE)
    _write(tables / "pyproject.toml", _PYPROJECT.format(name="their.tables", version="1.2", more=""))
    _write(tables / "their_tables" / "__init__.py", "ROWS = 3\n")
    _uv("venv", "--python", python, str(root / "venv"))
    _uv("pip", "install", "--no-deps", "--python", made.python, "six==1.16.0", "-e", str(lab), str(tables))
    return made


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _uv(*arguments: str) -> None:
    tool = Uv()
    subprocess.run([tool.binary, "-q", *arguments], env=tool._variables(), check=True)

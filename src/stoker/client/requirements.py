"""The syntax of requirements, checked where they are declared, so that a typo is an error there and then.

Only the form is checked here (PEP 508 and the options of a requirements file); whether a package exists is the
resolver's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import InvalidOption, InvalidRequest

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_EXTRAS = rf"(?:\[\s*(?:{_NAME}(?:\s*,\s*{_NAME})*)?\s*\])?"
_CLAUSE = r"(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9][A-Za-z0-9_.*+!-]*"
_CLAUSES = rf"{_CLAUSE}(?:\s*,\s*{_CLAUSE})*\s*,?"
_REQUIREMENT = re.compile(
    rf"(?P<name>{_NAME})\s*{_EXTRAS}\s*(?:@\s*(?P<url>\S+)|{_CLAUSES}|\(\s*{_CLAUSES}\s*\))?\s*(?:;\s*(?P<marker>.+))?"
)
_MARKER_VARIABLE = re.compile(r"\b(python_|os_name|sys_platform|platform_|implementation_|extra\b)")
_URL = re.compile(r"(?:git\+|hg\+|https?://|file://)\S+")
_INCLUDE = re.compile(r"(?:-r|--requirement|-c|--constraint)[\s=]*(?P<file>\S+)\s*")
_LINKS = re.compile(r"(?:-f|--find-links)[\s=]*(?P<where>\S+)\s*")
_OPTIONS = (
    *("-i", "--index-url", "--extra-index-url", "--no-index", "--no-binary", "--only-binary", "--pre"),
    *("--prefer-binary", "--trusted-host", "--require-hashes", "--use-feature"),
)


@dataclass(frozen=True)
class RequirementsFile:
    """One requirements file as it travels: its text, line for line, and the name its user knows it by."""

    name: str
    text: str
    constraint: bool = False


def check_requirement(text: str, *, where: str) -> str:
    """Return the requirement, stripped.

    Raises:
        InvalidOption: it is malformed; the message starts with ``where`` and says how to write it.
    """
    wanted = text.strip()
    if _URL.fullmatch(wanted):
        return wanted
    if (found := _REQUIREMENT.fullmatch(wanted)) and _marker_is_plausible(found["marker"]):
        return wanted
    raise InvalidOption(f"{where}: {text!r} is no requirement. {_hint(wanted)}")


def _marker_is_plausible(marker: str | None) -> bool:
    return marker is None or _MARKER_VARIABLE.search(marker) is not None


def _hint(text: str) -> str:
    if not text:
        return "It is empty."
    if text.startswith("-"):
        return "Options are keyword arguments: index_url=, extra_index_url=, find_links=."
    if text.startswith((".", "/", "~")) or text.endswith((".whl", ".tar.gz", ".zip")):
        return (
            "A path means nothing where the image is built: use add_local_python_source() for your own packages, "
            "or find_links= with a directory of wheels and the package's name."
        )
    if single := re.fullmatch(rf"({_NAME})\s*=\s*([^=\s]\S*)", text):
        return f"Did you mean {single[1]}=={single[2]!s}?"
    if spaced := re.fullmatch(rf"({_NAME})\s+v?([0-9]\S*)", text):
        return f"Did you mean {spaced[1]}=={spaced[2]}?"
    if " " in text and re.fullmatch(rf"{_NAME}(?:[\s,]+{_NAME})+", text):
        return "Write one requirement per argument."
    return "Write it as 'name', 'name==1.2', 'name[extra]>=1,<2' or 'name @ https://…'."


def read_requirements(path: Path, *, name: str = "", constraint: bool = False) -> list[RequirementsFile]:
    """Read a requirements file and those it includes (``-r``, ``-c``), each checked; included ones come first.

    Lines keep their numbers, so that a later error can name one. Relative ``--find-links`` become absolute. ``name`` is
    what its user calls it.

    Raises:
        InvalidRequest: a file is missing or no text, or includes itself.
        InvalidOption: a line is malformed; file and line are named.
    """
    return list(_read(path, name or str(path), constraint, ()))


def _read(path: Path, name: str, constraint: bool, above: tuple[Path, ...]) -> Iterator[RequirementsFile]:
    resolved = path.expanduser().resolve()
    if resolved in above:
        raise InvalidRequest(f"{name} includes itself. Remove one of its -r lines.")
    lines = _text_of(resolved, name).splitlines()
    for first, _, line in _logical_lines(lines):
        where = f"{name}, line {first}"
        if include := _INCLUDE.fullmatch(line):
            inner = Path(include["file"])
            shown = str(Path(name).parent / inner)
            is_constraint = constraint or line.startswith(("-c", "--c"))
            yield from _read(resolved.parent / inner, shown, is_constraint, (*above, resolved))
            lines[first - 1] = f"# {lines[first - 1]}"
        elif links := _LINKS.fullmatch(line):
            if "://" not in links["where"]:
                lines[first - 1] = f"--find-links {(resolved.parent / links['where']).resolve()}"
        else:
            _check_line(line, where)
    yield RequirementsFile(name, "\n".join(lines) + "\n", constraint)


def _text_of(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise InvalidRequest(f"The requirements file {name} cannot be read: {error.strerror} ({path}).") from error


def _check_line(line: str, where: str) -> None:
    if line.startswith(("-e", "--editable")):
        raise InvalidOption(
            f"{where}: an editable install ({line!r}) stays on this machine. Use add_local_python_source() for your "
            "own packages, and list only what comes from an index."
        )
    if line.startswith("-"):
        option = re.split(r"[\s=]", line, maxsplit=1)[0]
        if option not in _OPTIONS:
            raise InvalidOption(f"{where}: the option {option!r} is not supported. Supported: {', '.join(_OPTIONS)}.")
        return
    bare = re.sub(r"\s+--(?:hash|config-settings?|global-option)[\s=]\S+", "", line)
    check_requirement(bare, where=where)


def _logical_lines(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """Yield ``(first, last, text)`` of each line that says something, continued lines joined, comments removed."""
    start, gathered = 0, ""
    for number, raw in enumerate(lines, 1):
        start = start or number
        continued = raw.rstrip().endswith("\\")
        gathered += raw.rstrip()[:-1] if continued else raw
        if continued and number < len(lines):
            continue
        text = re.sub(r"(^|\s)#.*$", "", gathered).strip()
        if text:
            yield start, number, text
        start, gathered = 0, ""

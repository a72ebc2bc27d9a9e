"""Where packages come from, for people who have told pip but not uv.

uv does not read pip's settings. Where the environment says nothing to uv, the indexes and links of pip's variables and
configuration files are handed to it, so that a machine with a mirror works without being told twice.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_NO_INDEX")


def uv_variables(environ: Mapping[str, str], *, files: list[Path] | None = None) -> dict[str, str]:
    """Return the ``UV_*`` variables that say to uv what pip's settings say; none of those that are set already."""
    settings = _settings(environ, _config_files(environ) if files is None else files)
    found: dict[str, str] = {}
    if not any(name in environ for name in _INDEX_VARIABLES):
        if index := settings.get("index-url"):
            found["UV_DEFAULT_INDEX"] = index
        if extra := settings.get("extra-index-url"):
            found["UV_INDEX"] = " ".join(extra.split())
            found["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip's own: the best version of all indexes
    if "UV_FIND_LINKS" not in environ and (links := settings.get("find-links")):
        found["UV_FIND_LINKS"] = ",".join(links.split())
    if "UV_INDEX_STRATEGY" in environ:
        found.pop("UV_INDEX_STRATEGY", None)
    return found


def _settings(environ: Mapping[str, str], files: list[Path]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for file in files:
        settings.update(_read(file))
    for key in ("index-url", "extra-index-url", "find-links"):
        if value := environ.get("PIP_" + key.upper().replace("-", "_")):
            settings[key] = value
    return settings


def _config_files(environ: Mapping[str, str]) -> list[Path]:
    if environ.get("PIP_CONFIG_FILE") == os.devnull:
        return []
    return list(_places(environ))


def _places(environ: Mapping[str, str]) -> Iterator[Path]:
    for base in reversed(environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")):
        yield Path(base) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    home = Path(environ.get("HOME", "/"))
    yield home / ".pip" / "pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    if chosen := environ.get("PIP_CONFIG_FILE"):
        yield Path(chosen)


def _read(file: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(file, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return {}  # pip will say so; it is not ours to refuse a build over
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found.update(parser.items(section))
    return found

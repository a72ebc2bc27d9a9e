"""The caller's own environment as it travels to a node that does not have it: what is installed, and from where.

It is read from the metadata of the installed distributions alone. One that came from an index is named by its version,
one from a URL or a repository by that and its commit (PEP 610). One that came from this machine's disk travels by
content, as a wheel: an editable one's modules and packages (`stoker.client.editables`), else its installed files.

Nothing here fails for what cannot travel: the description says so, and a node that has to build it reports it.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from stoker.client.editables import SourceUnknown, editable_files, text_of
from stoker.client.wheels import make_wheel, wheel_stem
from stoker.errors import InvalidRequest
from stoker.types import FrozenDistribution, FrozenPython

MAX_WHEEL_BYTES = 100_000_000  # of one distribution that travels by content, as of a bundle
LARGEST_SHOWN = 5
SOURCES = "_stoker_sources"  # below site-packages: a directory for each editable distribution
_BROUGHT = frozenset({"stoker"})  # to each worker, by its node
_METADATA = ("entry_points.txt", "top_level.txt")
_HEADER = re.compile(r"^(Name|Version):[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def freeze(search: Sequence[str], add_blob: Callable[[bytes], str]) -> str:
    """Describe what is installed on a search path, and hand over what must travel; the description's digest.

    Equal environments have equal digests: it holds no paths and no times.
    """
    frozen = [_frozen(*found, add_blob) for found in _installed(search)]
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return add_blob(FrozenPython(python, platform_tag(), sorted(frozen, key=lambda item: item.name)).to_bytes())


def platform_tag() -> str:
    """Return what compiled files need: system, processor and C library."""
    return "-".join([sys.platform, platform.machine(), platform.libc_ver()[0] or "other"])


def _installed(search: Sequence[str]) -> Iterable[tuple[str, str, Distribution]]:
    """Return name, version and metadata of each distribution: of several of a name, the one that is imported.

    A source tree with an ``.egg-info`` in it is on the path of whoever works in it; an installation goes before that.
    """
    found: dict[str, tuple[str, str, Distribution]] = {}
    trees: dict[str, tuple[str, str, Distribution]] = {}
    for distribution in distributions(path=list(search)):
        head = (text_of(distribution, "METADATA") or text_of(distribution, "PKG-INFO") or "").partition("\n\n")[0]
        fields = dict(reversed(_HEADER.findall(head)))
        if "Name" not in fields or "Version" not in fields:
            continue  # what an interrupted installation left
        name = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
        kept = trees if _is_source_tree(distribution) else found
        kept.setdefault(name, (name, fields["Version"], distribution))
    return [entry for name, entry in {**trees, **found}.items() if name not in _BROUGHT]


def _frozen(
    name: str, version: str, distribution: Distribution, add_blob: Callable[[bytes], str]
) -> FrozenDistribution:
    origin = _origin(distribution)
    is_editable = bool(origin.get("dir_info", {}).get("editable")) or _is_source_tree(distribution)
    if not origin and not is_editable:
        return FrozenDistribution(name, version)
    url = _url_of(origin)
    if url and not is_editable:
        return FrozenDistribution(name, version, url=f"{name} @ {url}")
    texts = _metadata(name, version, distribution)
    try:
        if is_editable:
            place = f"{SOURCES}/{name}"
            files = {f"{place}/{inner}": path for inner, path in editable_files(name, distribution).items()}
            texts[f"{SOURCES}_{name}.pth"] = place + "\n"
        elif distribution.files is None:
            return FrozenDistribution(name, version)  # nothing says which files are its own
        else:
            files = _installed_files(distribution)
        _check_size(name, files)
        wheel = make_wheel(name, version, files=files, texts=texts)
    except (SourceUnknown, InvalidRequest) as error:
        return FrozenDistribution(name, version, problem=str(error))
    except OSError as error:
        return FrozenDistribution(name, version, problem=f"{error.filename} cannot be read: {error.strerror}.")
    except UnicodeDecodeError as error:
        problem = f"the list of the files of {name} is damaged ({error}). Install it again."
        return FrozenDistribution(name, version, problem=problem)
    return FrozenDistribution(name, version, wheel=add_blob(wheel), compiled=any(map(_is_compiled, files)))


def _origin(distribution: Distribution) -> dict[str, Any]:
    """Return its ``direct_url.json``. Conda writes one that names a directory of whoever made the package."""
    if (text_of(distribution, "INSTALLER") or "").strip() == "conda":
        return {}
    try:
        read = json.loads(text_of(distribution, "direct_url.json") or "{}")
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _url_of(origin: dict[str, Any]) -> str:
    """Return the URL to install from elsewhere; empty for what is on this machine's disk."""
    url = str(origin.get("url", ""))
    if "://" not in url or url.startswith("file:"):
        return ""
    fragments = []
    if vcs := origin.get("vcs_info"):
        url = f"{vcs.get('vcs', 'git')}+{url}@{vcs.get('commit_id', '')}"
    elif archive := origin.get("archive_info"):
        hashes = archive.get("hashes") or dict(
            [str(archive.get("hash", "")).split("=", 1)] if "hash" in archive else []
        )
        fragments += [f"{kind}={digest}" for kind, digest in sorted(hashes.items()) if kind == "sha256"]
    if inner := origin.get("subdirectory"):
        fragments.append(f"subdirectory={inner}")
    return url + ("#" + "&".join(fragments) if fragments else "")


def _installed_files(distribution: Distribution) -> dict[str, Path]:
    """Return what it has in ``site-packages``, by name; scripts are made anew from its entry points."""
    found = {}
    for file in distribution.files or ():
        place = Path(str(distribution.locate_file(file)))
        is_code = ".." not in file.parts and "__pycache__" not in file.parts
        if is_code and not file.parts[0].endswith(".dist-info") and place.is_file():
            found[file.as_posix()] = place
    return found


def _metadata(name: str, version: str, distribution: Distribution) -> dict[str, str]:
    info = f"{wheel_stem(name, version)}.dist-info"
    found = {f"{info}/METADATA": text_of(distribution, "METADATA") or text_of(distribution, "PKG-INFO") or ""}
    for inner in _METADATA:
        if (text := text_of(distribution, inner)) is not None:
            found[f"{info}/{inner}"] = text
    return found


def _is_source_tree(distribution: Distribution) -> bool:
    """Tell whether the metadata lies in a project's own directory, as `setup.py develop` and builds leave it there."""
    place = Path(str(distribution.locate_file("")))
    return _INSTALLED.isdisjoint(place.parts) and text_of(distribution, "METADATA") is None


def _is_compiled(name: str) -> bool:
    return name.endswith(tuple(EXTENSION_SUFFIXES)) or ".so." in name


def _check_size(name: str, files: dict[str, Path]) -> None:
    sizes = {inner: path.stat().st_size for inner, path in files.items()}
    if sum(sizes.values()) <= MAX_WHEEL_BYTES:
        return
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:LARGEST_SHOWN]
    lines = "".join(f"\n  {size / 1e6:8.1f} MB  {inner}" for inner, size in largest)
    raise InvalidRequest(
        f"{name} is installed from your own disk and has {sum(sizes.values()) / 1e6:.0f} MB, more than the "
        f"{MAX_WHEEL_BYTES / 1e6:.0f} MB that may travel. Move data out of it, or name it in .gitignore. The largest "
        f"files:{lines}"
    )

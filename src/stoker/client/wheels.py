"""Wheels of what is installed already: an archive that any installer takes, whose bytes depend on its content alone.

The format is that of the wheel specification, version 1.0: a zip with a ``.dist-info`` directory, which lists all files
with their digests in ``RECORD``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

ANYWHERE = "py3-none-any"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say


def wheel_stem(name: str, version: str) -> str:
    """Return how the names of a distribution's wheel and ``.dist-info`` directory begin."""
    return f"{re.sub(r'[-_.]+', '_', name).lower()}-{version.replace('-', '_')}"


def make_wheel(name: str, version: str, *, files: Mapping[str, Path], texts: Mapping[str, str]) -> bytes:
    """Return a wheel of ``files`` and ``texts``, each by its place below ``site-packages``.

    The texts include those of the ``.dist-info`` directory, but ``WHEEL`` and ``RECORD``. The wheel claims to run
    anywhere: whoever installs it checks what it holds. Links are followed.

    Raises:
        OSError: a file cannot be read.
    """
    info = f"{wheel_stem(name, version)}.dist-info"
    wheel = f"Wheel-Version: 1.0\nGenerator: stoker\nRoot-Is-Purelib: true\nTag: {ANYWHERE}\n"
    texts = {**texts, f"{info}/WHEEL": wheel}
    record = []
    out = io.BytesIO()
    # Stored, not compressed: what zlib makes of the same bytes depends on its version.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for inner in sorted({*files, *texts}):
            content = texts[inner].encode() if inner in texts else files[inner].read_bytes()
            runs = inner not in texts and bool(files[inner].stat().st_mode & 0o100)
            archive.writestr(_entry(inner, 0o755 if runs else 0o644), content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{_quoted(inner)},sha256={digest},{len(content)}\n")
        record.append(f"{info}/RECORD,,\n")
        archive.writestr(_entry(f"{info}/RECORD", 0o644), "".join(record))
    return out.getvalue()


def _entry(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3  # Unix: the mode below counts
    entry.external_attr = (0o100000 | mode) << 16
    return entry


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""')) if any(mark in name for mark in ',"\n') else name

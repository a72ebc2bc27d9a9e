"""A disk that a test can fill, or make read-only: a small tmpfs, which only root may mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system of ``size`` bytes."""

    root: Path
    size: int

    @contextmanager
    def full(self) -> Iterator[None]:
        """Leave no free page on it while the block runs."""
        filler = self.root / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        _run("mount", "-o", "remount,ro", str(self.root))
        try:
            yield
        finally:
            _run("mount", "-o", "remount,rw", str(self.root))


@contextmanager
def small_disk(root: Path, *, size: int) -> Iterator[SmallDisk]:
    """Mount one at ``root``; skip the test where that is not permitted, but fail it in CI."""
    root.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(root))
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no tmpfs can be mounted: {error}")
    try:
        yield SmallDisk(root, size)
    finally:
        _run("umount", "--lazy", str(root))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)

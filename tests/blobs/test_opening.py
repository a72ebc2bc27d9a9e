"""Which store an address opens, and what it needs for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stoker.blobs.disk import DiskBlobStore
from stoker.blobs.opening import open_blobs
from stoker.errors import InvalidOption, InvalidRequest


def test_without_an_address_blobs_are_on_the_disk(own_home: Path) -> None:
    assert isinstance(open_blobs(""), DiskBlobStore)


def test_a_missing_package_is_told_with_what_to_install(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "stoker.blobs.bucket", raising=False)
    with pytest.raises(InvalidRequest, match=r"need the package obstore.*pip install 'stoker\[objects\]'"):
        open_blobs("s3://bucket/x")


def test_an_address_that_is_wrong_is_told_before_any_package_is_needed(own_home: Path) -> None:
    with pytest.raises(InvalidOption, match="ftp:// is no blob store"):
        open_blobs("ftp://bucket/x")


def test_the_driver_is_imported_only_where_it_is_asked_for() -> None:
    check = (
        "import sys, stoker.cli, stoker.server.serving, stoker.engine.local.agent, stoker.engine.local.probes\n"
        "assert 'obstore' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

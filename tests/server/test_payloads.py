"""Payloads: cut out of messages, put into messages, and made durable."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.calls import Segment
from stoker.errors import ProtocolError, StoreError
from stoker.server import payloads
from stoker.server.payloads import KEEP_VIEW_BYTES, PayloadFiles, pack, stored, unpack


@given(
    st.lists(
        st.binary(max_size=50)
        | st.builds(Segment, st.from_regex(r"[a-z][a-z0-9.-]{0,9}", fullmatch=True), st.integers(0, 1 << 40)),
        max_size=8,
    )
)
def test_what_is_packed_is_unpacked(loads: list[bytes | Segment]) -> None:
    sizes, segments, parts = pack(loads)
    assert unpack(sizes, segments, memoryview(b"".join(parts))) == loads


def test_small_parts_are_copied_out_of_their_frame_and_big_ones_are_not() -> None:
    big = KEEP_VIEW_BYTES + 1
    body = memoryview(bytes(3 * big))
    small, large, _ = unpack([4, big, 3 * big - big - 4], {}, body)
    assert isinstance(small, bytes)
    assert isinstance(large, memoryview)


@pytest.mark.parametrize(
    ("sizes", "segments"),
    [
        ([3], {}),
        ([5], {}),
        ([-1, 5], {}),
        ([4], {"1": ["name", 1]}),
        ([4], {"-1": ["name", 1]}),
        ([4], {"": ["name", 1]}),
        ([4], {"\u0660": ["name", 1]}),
        ([4], {"0": []}),
        ([4], {"0": ["name"]}),
        ([4], {"0": ["name", 1, 2]}),
        ([4], {"0": [1, "name"]}),
        ([4], {"0": ["name", -1]}),
        ([4], {"0": ["", 1]}),
        ([4], {"0": ["..", 1]}),
        ([4], {"0": ["a/b", 1]}),
        ([4], {"0": ["a\n", 1]}),
        ([4], {"0": ["a" * 122, 1]}),
    ],
)
@pytest.mark.parametrize("body", [b"four", b"four" * 5000], ids=["small", "big"])
def test_columns_that_lie(sizes: list[int], segments: dict[str, Any], body: bytes) -> None:
    if len(body) > 4:
        sizes = [size if size < 0 else size * 5000 for size in sizes]
    with pytest.raises(ProtocolError):
        unpack(sizes, segments, memoryview(body))


@pytest.fixture
def files(tmp_path: Path) -> PayloadFiles:
    return PayloadFiles(tmp_path / "segments", tmp_path / "spill")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_directories_are_their_owners(files: PayloadFiles) -> None:
    assert files.segments.stat().st_mode & 0o777 == files.spill.stat().st_mode & 0o777 == 0o700


def test_bytes_are_persisted_as_they_are(files: PayloadFiles) -> None:
    assert files.persist(memoryview(b"abc")) == (b"abc", "")


def test_a_segment_moves_to_the_disk_and_is_synced(files: PayloadFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    (files.segments / "c-1.1").write_bytes(b"big")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    assert files.persist(Segment("c-1.1", 3)) == (b"", "c-1.1")
    assert (files.spill / "c-1.1").read_bytes() == b"big"
    assert (files.spill / "c-1.1").stat().st_mode & 0o777 == 0o600
    assert names(files.segments) == []
    assert len(synced) == 2
    assert synced[-1] == str(files.spill), "the directory, after the file is in its place"


def test_persisting_again_changes_nothing(files: PayloadFiles) -> None:
    (files.segments / "c-1.1").write_bytes(b"big")
    files.persist(Segment("c-1.1", 3))
    assert files.persist(Segment("c-1.1", 3)) == (b"", "c-1.1")
    assert (files.spill / "c-1.1").read_bytes() == b"big"


def test_a_payload_that_is_on_the_disk_already_is_synced_there(files: PayloadFiles) -> None:
    (files.spill / "c-1.1").write_bytes(b"big")
    assert files.persist(Segment("c-1.1", 3)) == (b"", "c-1.1")


def test_a_missing_payload(files: PayloadFiles) -> None:
    with pytest.raises(StoreError, match="could not be kept"):
        files.persist(Segment("c-1.1", 3))


def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    files: PayloadFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Any, target: Any, length: int = 0) -> None:
        target.write(b"b")
        raise OSError(errno.ENOSPC, "No space left on device")

    (files.segments / "c-1.1").write_bytes(b"big")
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="No space left"):
        patch.setattr(shutil, "copyfileobj", full)
        files.persist(Segment("c-1.1", 3))
    assert names(files.spill) == []
    assert files.persist(Segment("c-1.1", 3)) == (b"", "c-1.1")


def test_what_a_killed_server_left_half_written_is_in_nobodys_way(files: PayloadFiles) -> None:
    for name in ("c-1.partial", "c-1.1.partial"):
        (files.spill / name).write_bytes(b"half of it")
    (files.segments / "c-1.1").write_bytes(b"big")
    assert files.persist(Segment("c-1.1", 3)) == (b"", "c-1.1")
    assert (files.spill / "c-1.1").read_bytes() == b"big"
    PayloadFiles(files.segments, files.spill)
    assert names(files.spill) == ["c-1.1"]


def test_deleting_looks_in_both_places_and_misses_nothing(files: PayloadFiles) -> None:
    (files.segments / "a").write_bytes(b"")
    (files.spill / "b").write_bytes(b"")
    files.delete([Segment("a", 0), b"bytes", Segment("b", 0), Segment("gone", 0)])
    assert names(files.segments) == names(files.spill) == []


def test_removing_leaves_the_disk(files: PayloadFiles) -> None:
    (files.segments / "a").write_bytes(b"")
    (files.spill / "b").write_bytes(b"")
    files.remove()
    assert not files.segments.exists()
    assert names(files.spill) == ["b"]


def test_a_stored_payload_is_found_or_said_to_be_gone(files: PayloadFiles) -> None:
    assert stored(b"abc", "", files.spill) == b"abc"
    (files.spill / "b").write_bytes(b"12345")
    assert stored(b"", "b", files.spill) == Segment("b", 5)
    with pytest.raises(StoreError, match="is gone"):
        stored(b"", "c", files.spill)


def test_names_that_the_runner_and_the_client_make_are_names() -> None:
    for name in ("c-01h2xcejqt0123456789.12", "r-w1-1-7", "c-1.r2"):
        assert payloads._NAME.fullmatch(name)

"""Payload segments: written whole or not at all, private to who maps them, used again only when nobody sees them."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import InvalidRequest, NotFound, StokerError
from stoker.transport import segments
from stoker.transport.segments import RECYCLED_MIN_BYTES, SegmentDir

BIG = 2 * RECYCLED_MIN_BYTES


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[SegmentDir]:
    (tmp_path / "spill").mkdir(mode=0o700)
    with tempfile.TemporaryDirectory(prefix="stoker-test-", dir="/dev/shm") as shared:
        yield SegmentDir(shared, tmp_path / "spill")


@pytest.fixture
def pooling(directory: SegmentDir) -> SegmentDir:
    """An owner with a pool, where this file system grants leases."""
    probe = directory.path / "probe"
    probe.touch()
    with probe.open("r+b") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            pytest.skip("this file system grants no leases")
    probe.unlink()
    return SegmentDir(directory.path, directory.spill, pool_bytes=4 * BIG)


def test_what_is_written_is_mapped(directory: SegmentDir) -> None:
    parts: list[segments.Buffer] = [b"abc", bytearray(b""), memoryview(b"defg"), b"x" * 100_000]
    assert directory.write("one", parts) == 100_007
    assert bytes(directory.map("one")) == b"abcdefg" + b"x" * 100_000
    assert (directory.path / "one").stat().st_mode & 0o777 == 0o600


def test_an_empty_segment(directory: SegmentDir) -> None:
    assert directory.write("none", []) == 0
    assert bytes(directory.map("none")) == b""


def test_a_mapping_is_private_and_outlives_the_segment(directory: SegmentDir) -> None:
    directory.write("one", [b"abc"])
    mine, other = directory.map("one"), directory.map("one")
    mine[0] = ord("X")
    assert bytes(other) == b"abc"
    directory.delete("one")
    assert bytes(mine) == b"Xbc"
    with pytest.raises(NotFound, match="one is gone"):
        directory.map("one")


def test_a_read_only_mapping_refuses_writes(directory: SegmentDir) -> None:
    directory.write("one", [b"abc"])
    assert directory.map("one", writable_private=False).readonly


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc/passwd", ".hidden", "+pool", "a" * 129, "a\n", "a\0"])
def test_names_lead_nowhere_else(directory: SegmentDir, name: str) -> None:
    for use in (lambda: directory.write(name, [b"x"]), lambda: directory.map(name), lambda: directory.delete(name)):
        with pytest.raises(InvalidRequest, match="no name of a payload segment"):
            use()


def test_a_segment_is_never_written_over(directory: SegmentDir) -> None:
    directory.write("one", [b"abc"])
    with pytest.raises(StokerError, match="File exists"):
        directory.write("one", [b"other"])
    assert bytes(directory.map("one")) == b"abc"


def test_links_are_not_followed(directory: SegmentDir, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (directory.path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(StokerError):
        directory.write("link", [b"x"])
    with pytest.raises(StokerError):
        directory.map("link")
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_thousands_of_parts_and_short_writes(directory: SegmentDir, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [bytes([i % 251]) * (i % 7) for i in range(5000)]
    directory.write("many", parts)
    whole = b"".join(parts)
    assert bytes(directory.map("many")) == whole

    real = os.writev

    def short(descriptor: int, buffers: list[memoryview]) -> int:
        return real(descriptor, [buffers[0][:3], *([buffers[1][:1]] if len(buffers[0]) <= 3 and buffers[1:] else [])])

    monkeypatch.setattr(os, "writev", short)
    directory.write("short", parts)
    assert bytes(directory.map("short")) == whole


def full_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make writes below ``path`` fail for want of room, after some of the data."""
    real = os.writev

    def writev(descriptor: int, buffers: list[memoryview]) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(path):
            if os.fstat(descriptor).st_size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, [buffers[0][:1]])
        return real(descriptor, buffers)

    monkeypatch.setattr(os, "writev", writev)


def test_a_full_shared_memory_spills_to_disk(directory: SegmentDir, monkeypatch: pytest.MonkeyPatch) -> None:
    full_on(directory.path, monkeypatch)
    assert directory.write("one", [b"abc", b"def"]) == 6
    assert not (directory.path / "one").exists()
    assert bytes(directory.map("one")) == b"abcdef"
    directory.delete("one")
    assert directory.sweep(set()) == []


def test_no_room_anywhere_names_both(directory: SegmentDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full_on(Path("/"), monkeypatch)
    with pytest.raises(StokerError, match="no room for a payload of 6 bytes") as caught:
        directory.write("one", [b"abc", b"def"])
    assert str(directory.path) in str(caught.value)
    assert str(directory.spill) in str(caught.value)
    assert directory.sweep(set()) == []


@pytest.fixture
def small_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_real_limit_leaves_nothing_behind(directory: SegmentDir, tmp_path: Path) -> None:
    with pytest.raises(StokerError, match="no room"):
        directory.write("one", [b"x" * 10_000])
    assert directory.sweep(set()) == []


def test_sweep_keeps_what_is_named(directory: SegmentDir) -> None:
    for name in ("a", "b", "c"):
        directory.write(name, [b"x"])
    assert directory.spill is not None
    (directory.spill / "d").write_bytes(b"x")
    assert sorted(directory.sweep({"b"})) == ["a", "c", "d"]
    assert bytes(directory.map("b")) == b"x"


def inode(directory: SegmentDir, name: str) -> int:
    return (directory.path / name).stat().st_ino


def test_a_deleted_segment_s_memory_is_used_again(pooling: SegmentDir) -> None:
    pooling.write("one", [b"a" * BIG])
    before = inode(pooling, "one")
    pooling.delete("one")
    writer = SegmentDir(pooling.path)  # another process: it has no pool of its own
    writer.write("two", [b"b" * (BIG - 5)])
    assert inode(pooling, "two") == before
    assert bytes(writer.map("two")) == b"b" * (BIG - 5)
    assert (pooling.path / "two").stat().st_nlink == 1


def test_memory_that_is_still_mapped_is_not_used_again(pooling: SegmentDir) -> None:
    pooling.write("one", [b"a" * BIG])
    mapping = pooling.map("one")
    before = inode(pooling, "one")
    pooling.delete("one")
    pooling.write("two", [b"b" * BIG])
    assert inode(pooling, "two") != before
    assert bytes(mapping) == b"a" * BIG


MAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
size = int(sys.argv[2])
descriptor = os.open(sys.argv[1], os.O_RDONLY)
address = libc.mmap(None, size, 1, 2, descriptor, 0)
os.close(descriptor)
print("mapped", flush=True)
sys.stdin.readline()
print(ctypes.string_at(address, size) == b"a" * size)
"""


def test_a_mapping_without_a_descriptor_in_another_process_is_seen(pooling: SegmentDir) -> None:
    pooling.write("one", [b"a" * BIG])
    child = subprocess.Popen(
        [sys.executable, "-c", MAPPER, str(pooling.path / "one"), str(BIG)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "mapped\n"
        pooling.delete("one")
        pooling.write("two", [b"b" * BIG])
        told, _ = child.communicate("\n", timeout=30)
    assert told == "True\n"


def test_the_pool_has_a_budget_and_can_be_drained(pooling: SegmentDir) -> None:
    pool = pooling.path / "+pool"
    for i in range(7):
        pooling.write(f"s{i}", [bytes(BIG), b"x" * i])
    for i in range(7):
        pooling.delete(f"s{i}")
    held = sum(path.stat().st_size for path in pool.iterdir())
    assert BIG < held <= 4 * BIG
    pooling.drain_pool()
    assert not list(pool.iterdir())


def test_a_pooled_file_that_is_far_too_big_is_left(pooling: SegmentDir) -> None:
    pooling.write("one", [bytes(3 * BIG)])
    before = inode(pooling, "one")
    pooling.delete("one")
    pooling.write("two", [bytes(BIG)])
    assert inode(pooling, "two") != before


def test_two_writers_never_share_a_file(pooling: SegmentDir) -> None:
    for i in range(3):
        pooling.write(f"old{i}", [bytes(BIG)])
        pooling.delete(f"old{i}")
    for i in range(5):
        pooling.write(f"new{i}", [bytes([i]) * BIG])
    assert len({inode(pooling, f"new{i}") for i in range(5)}) == 5
    assert all(bytes(pooling.map(f"new{i}")) == bytes([i]) * BIG for i in range(5))


def test_a_recycled_segment_does_not_replace_another(pooling: SegmentDir) -> None:
    pooling.write("one", [b"1" * BIG])
    pooling.write("two", [b"2" * BIG])
    pooling.delete("one")
    with pytest.raises(StokerError, match="File exists"):
        pooling.write("two", [b"3" * BIG])
    assert bytes(pooling.map("two")) == b"2" * BIG


def test_a_pool_in_the_way_is_given_up_for_room(pooling: SegmentDir, monkeypatch: pytest.MonkeyPatch) -> None:
    pooling.write("one", [bytes(BIG)])
    pooling.delete("one")
    full = [True]
    real: Any = segments._write_new

    def write_new(target: Path, views: list[memoryview]) -> None:
        if full.pop() if full else False:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(target, views)

    monkeypatch.setattr(segments, "_write_new", write_new)
    pooling.write("small", [b"x"])
    assert (pooling.path / "small").exists()
    assert not list((pooling.path / "+pool").iterdir())

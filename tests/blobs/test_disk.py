"""The blob store on disk: the contract, and what disks, crashes and planted links do to it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.blobs.base import BlobStore
from stoker.blobs.disk import UNFINISHED_AGE_S, DiskBlobStore
from stoker.errors import NotFound, StokerError, StoreError
from tests.blobs.contract import BlobStoreContract
from tests.store.small_disk import SmallDisk, small_disk
from tests.waiting import wait_until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "blobs"
    made.mkdir()
    return made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", size=1 << 20) as mounted:
        yield mounted


class TestDiskBlobStore(BlobStoreContract):
    @pytest.fixture
    def blobs(self, root: Path) -> BlobStore:
        return DiskBlobStore(root)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_blobs_outlive_the_object(root: Path) -> None:
    DiskBlobStore(root).put("a/b", [b"x"])
    assert DiskBlobStore(root).get("a/b") == b"x"


def test_files_and_directories_are_for_this_user_only(root: Path) -> None:
    DiskBlobStore(root).put("a/b", [b"x"])
    assert {path.stat().st_mode & 0o077 for path in root.rglob("*")} == {0}


def test_a_put_leaves_one_file(root: Path) -> None:
    blobs = DiskBlobStore(root)
    blobs.put("a/b", [b"x"])
    blobs.put("a/b", [b"y"])
    assert len(files(root)) == 1


def test_keys_that_begin_alike_are_spread(root: Path) -> None:
    blobs = DiskBlobStore(root)
    for number in range(300):
        blobs.put(f"calls/c-0k3v9-{number}.args", [b""])
    assert len(list((root / "calls").iterdir())) > 100
    assert len(blobs.keys("calls")) == 300


def test_bytes_and_name_are_synced_in_that_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(file: int) -> None:
        steps.append("directory" if os.path.isdir(f"/proc/self/fd/{file}") else "file")  # noqa: PTH112
        fsync(file)

    def renamed(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        steps.append("rename")
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    blobs = DiskBlobStore(root)
    blobs.put("a/b", [b"x"])
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    blobs.put("a/b", [b"y"])
    assert steps == ["file", "rename", "directory"]


def test_a_full_disk_is_told_and_leaves_nothing(disk: SmallDisk) -> None:
    blobs = DiskBlobStore(disk.root)
    blobs.put("a/old", [b"old"])
    for _ in range(3):
        with pytest.raises(StoreError, match=r"a/new in .*no space is left.*free space"):
            blobs.put("a/new", [b"x" * (2 << 20)])
    assert len(files(disk.root)) == 1
    assert not blobs.has("a/new")
    with disk.full():
        with pytest.raises(StoreError, match="no space"):
            blobs.put("a/old", [b"newer" * 1000])
        assert blobs.get("a/old") == b"old"
    blobs.put("a/new", [b"x" * (1 << 19)])
    assert blobs.size("a/new") == 1 << 19


def test_a_read_only_disk_is_told(disk: SmallDisk) -> None:
    blobs = DiskBlobStore(disk.root)
    blobs.put("a", [b"x"])
    with disk.read_only():
        with pytest.raises(StoreError, match=r"not permitted.*writable"):
            blobs.put("b", [b"x"])
        with pytest.raises(StoreError, match="not permitted"):
            blobs.delete("a")
        assert blobs.get("a") == b"x"


def test_a_root_that_is_gone_is_told(root: Path) -> None:
    with pytest.raises(StoreError, match="gone"):
        DiskBlobStore(root / "nowhere")
    blobs = DiskBlobStore(root)
    (root / "~new").rmdir()
    root.rmdir()
    for verb in (blobs.get, blobs.has, blobs.delete):
        with pytest.raises(StoreError, match="gone"):
            verb("a")
    with pytest.raises(StoreError, match="gone"):
        blobs.keys()
    with pytest.raises(StoreError, match="gone"):
        blobs.put("a", [b"x"])


def test_a_blob_removed_while_it_is_written_is_an_error(root: Path) -> None:
    blobs = DiskBlobStore(root)

    def parts() -> Iterator[bytes]:
        yield b"x"
        for unfinished in (root / "~new").iterdir():
            unfinished.unlink()

    with pytest.raises(StoreError, match="removed while it was written"):
        blobs.put("a", parts())


@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT, errno.EACCES, errno.ELOOP, errno.EMFILE, errno.EROFS])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_any_error_of_the_disk_is_ours(root: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str) -> None:
    blobs = DiskBlobStore(root)
    blobs.put("space/a", [b"old"])

    def fail(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched, pytest.raises(StoreError, match="space/a"):
        patched.setattr(os, call, fail)
        blobs.put("space/a", [b"new"])
    assert blobs.get("space/a") in (b"old", b"new")
    assert len(files(root)) == 1


def blob_path(root: Path) -> Path:
    DiskBlobStore(root).put("space/secret", [b"x"])
    (path,) = files(root)
    return path


def test_a_link_in_a_blobs_place_is_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"not for you")
    planted = blob_path(root)
    planted.unlink()
    planted.symlink_to(outside)
    blobs = DiskBlobStore(root)
    with pytest.raises(StoreError, match="a link"):
        blobs.get("space/secret")
    with pytest.raises(StoreError, match="a link"), blobs.open_mapped("space/secret"):
        pass
    blobs.put("space/secret", [b"new"])
    assert (blobs.get("space/secret"), outside.read_bytes()) == (b"new", b"not for you")


@pytest.mark.parametrize("level", ["shard", "namespace", "~new"])
def test_a_link_in_a_directorys_place_is_not_followed(root: Path, tmp_path: Path, level: str) -> None:
    path = blob_path(root)
    planted = {"shard": path.parent, "namespace": path.parent.parent, "~new": root / "~new"}[level]
    outside = tmp_path / "outside"
    planted.rename(outside)
    planted.symlink_to(outside)
    before = sorted(outside.rglob("*"))
    with pytest.raises(StoreError, match="a link"):
        DiskBlobStore(root).put("space/secret", [b"new"])
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_what_is_no_plain_file_is_told(root: Path, kind: str) -> None:
    planted = blob_path(root)
    planted.unlink()
    if kind == "pipe":
        os.mkfifo(planted)
    else:
        planted.mkdir()
    with pytest.raises(StoreError, match="something else"):
        DiskBlobStore(root).get("space/secret")


def test_what_a_crash_left_is_swept_once_it_is_old(root: Path) -> None:
    writing = (
        "import sys, pathlib, time; from stoker.blobs.disk import DiskBlobStore\n"
        "def parts():\n    yield b'x' * 1000\n    print('written', flush=True)\n    time.sleep(60)\n"
        "DiskBlobStore(pathlib.Path(sys.argv[1])).put('a', parts())"
    )
    with subprocess.Popen([sys.executable, "-c", writing, str(root)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    blobs = DiskBlobStore(root)
    assert len(files(root)) == 1, "it may be another process's, who is at it"
    assert not blobs.has("a")
    assert blobs.keys() == []
    blobs.put("b", [b"kept"])
    later = time.time() + UNFINISHED_AGE_S + 60.0
    assert DiskBlobStore(root, clock=lambda: later).keys() == ["b"]
    assert len(files(root)) == 1


@pytest.mark.chaos
def test_a_killed_writer_leaves_every_blob_whole(root: Path) -> None:
    writing = (
        "import sys, pathlib, itertools; from stoker.blobs.disk import DiskBlobStore\n"
        "blobs = DiskBlobStore(pathlib.Path(sys.argv[1]))\n"
        "for n in itertools.count():\n"
        "    text = str(n % 10).encode() * 10000; blobs.put(f'k{n % 5}', [text, text]); print(n, flush=True)\n"
    )
    for rounds in range(1, 6):
        with subprocess.Popen([sys.executable, "-c", writing, str(root)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(5 + rounds):
                process.stdout.readline()
            process.kill()
        blobs = DiskBlobStore(root)
        kept = blobs.keys()
        contents = [blobs.get(key) for key in kept]
        assert len(contents) == 5
        assert {(len(content), len(set(content))) for content in contents} == {(20_000, 1)}


def test_two_processes_may_share_a_root(root: Path) -> None:
    writing = (
        "import sys, pathlib; from stoker.blobs.disk import DiskBlobStore\n"
        "blobs = DiskBlobStore(pathlib.Path(sys.argv[1]))\n"
        "for n in range(50): blobs.put('shared/key', [bytes([n]) * 5000])\n"
    )
    blobs = DiskBlobStore(root)
    with subprocess.Popen([sys.executable, "-c", writing, str(root)]) as process:
        wait_until(lambda: blobs.has("shared/key"))
        while process.poll() is None:
            blobs.put("shared/key", [b"\xff" * 5000])
            found = blobs.get("shared/key")
            assert (len(found), len(set(found))) == (5000, 1)
        assert process.returncode == 0


def test_errors_are_of_our_tree(root: Path) -> None:
    with pytest.raises(StokerError) as caught:
        DiskBlobStore(root).get("a")
    assert isinstance(caught.value, NotFound)
    assert not isinstance(caught.value, StoreError)

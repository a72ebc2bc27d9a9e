"""Bodies in parts become files, and nothing is left of those that nobody keeps."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.core.calls import Segment
from stoker.errors import ProtocolError
from stoker.server import spool as spools
from stoker.server.orphans import writer_of
from stoker.server.payloads import PayloadFiles
from stoker.server.spool import FileBody, Spool


@pytest.fixture
def files(tmp_path: Path) -> PayloadFiles:
    return PayloadFiles(tmp_path / "shm", tmp_path / "spill")


def left(files: PayloadFiles) -> list[str]:
    return [path.name for place in (files.segments, files.spill) for path in place.iterdir()]


def gathered(files: PayloadFiles, *pieces: bytes) -> Spool:
    size = sum(map(len, pieces))
    spool = Spool(files, "c-1", size=size)
    for piece in pieces:
        spool.add(size, memoryview(piece))
    return spool


def test_a_body_that_is_kept_is_a_payload(files: PayloadFiles) -> None:
    spool = gathered(files, b"one ", b"two")
    spool.complete(memoryview(b""))
    segment = spool.keep()
    spool.close()
    assert (files.segments / segment.name).read_bytes() == b"one two" == b"".join(spool.read())
    assert (files.segments / segment.name).stat().st_mode & 0o777 == 0o600
    assert segment.size == 7
    assert files.has(segment)
    assert writer_of(segment.name) == ("client", "c-1"), "it is swept if its client is gone"


def test_nothing_is_left_of_what_is_not_kept(files: PayloadFiles) -> None:
    spool = gathered(files, b"one")
    spool.close()
    spool.close()
    assert left(files) == []


def test_parts_that_do_not_belong_together(files: PayloadFiles) -> None:
    spool = Spool(files, "c-1", size=4)
    spool.add(4, memoryview(b"abc"))
    with pytest.raises(ProtocolError, match="of 5 bytes came among those of one of 4"):
        spool.add(5, memoryview(b"d"))
    with pytest.raises(ProtocolError, match="5 bytes, 4 were announced"):
        spool.add(4, memoryview(b"de"))
    with pytest.raises(ProtocolError, match="4 were announced"):
        spool.complete(memoryview(b""))
    spool.close()
    with pytest.raises(ProtocolError, match="at most"):
        Spool(files, "c-1", size=0)


def full(directory: Path) -> Callable[[int, memoryview, int], None]:
    """Return a `_write_all` that finds no room in a directory after 4 bytes."""
    real = spools._write_all

    def write(fd: int, piece: memoryview, at: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().parent == directory and at + len(piece) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd, piece, at)

    return write


def test_where_shared_memory_is_full_it_goes_on_on_the_disk(
    files: PayloadFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "_write_all", full(files.segments))
    spool = gathered(files, b"abcd", b"efgh", b"i")
    spool.complete(memoryview(b""))
    segment = spool.keep()
    assert (files.spill / segment.name).read_bytes() == b"abcdefghi"
    assert list(files.segments.iterdir()) == []


def test_what_would_not_fit_into_shared_memory_lies_on_the_disk(
    files: PayloadFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "_has_room", lambda directory, size: directory != files.segments)
    segment = gathered(files, b"abc").keep()
    assert (files.spill / segment.name).read_bytes() == b"abc"


def test_without_room_the_rest_is_dropped_and_it_is_said_why(
    files: PayloadFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "_write_all", full(files.spill))
    monkeypatch.setattr(spools, "_has_room", lambda directory, size: False)
    spool = gathered(files, b"abcd", b"efgh", b"i")
    spool.complete(memoryview(b""))
    assert "no room for a payload of 9 bytes: No space left on device" in str(spool.failure)
    assert left(files) == []


def test_a_file_goes_out_from_wherever_it_lies(files: PayloadFiles) -> None:
    (files.segments / "a").write_bytes(b"abc")
    (files.spill / "b").write_bytes(b"de")
    assert b"".join(FileBody(files, Segment("a", 3)).pieces()) == b"abc"
    assert b"".join(FileBody(files, Segment("b", 2)).pieces()) == b"de"
    assert len(FileBody(files, Segment("b", 2))) == 2
    for segment in (Segment("c", 1), Segment("a", 4)):
        with pytest.raises(OSError, match=r"No such file|shorter"):
            list(FileBody(files, segment).pieces())

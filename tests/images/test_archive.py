from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from stoker.client.packing import pack, walk
from stoker.errors import InvalidRequest
from stoker.images.archive import unpack, unpack_once


def _tar(*members: tuple[str, bytes, str]) -> bytes:
    """Members are (name, type, link or content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
            else:
                info.linkname = text
                archive.addfile(info)
    return out.getvalue()


def test_what_was_packed_comes_out_alike(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "naïve name.txt").write_text("text")
    (tree / "run.sh").write_text("#!/bin/sh")
    (tree / "run.sh").chmod(0o755)
    (tree / "link").symlink_to("deep/naïve name.txt")
    (tree / "out").symlink_to("/etc/passwd")
    names = unpack(pack((name, path) for name, path, _ in walk(tree)), tmp_path / "made")
    assert sorted(names) == ["deep/naïve name.txt", "link", "run.sh"]
    assert (tmp_path / "made" / "link").read_text() == "text"
    assert (tmp_path / "made" / "run.sh").stat().st_mode & 0o111


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", tarfile.REGTYPE, "x")],
        [("/etc/evil", tarfile.REGTYPE, "x")],
        [("a/../../evil", tarfile.REGTYPE, "x")],
        [("link", tarfile.SYMTYPE, "/etc"), ("link/evil", tarfile.REGTYPE, "x")],
        [("link", tarfile.SYMTYPE, "..")],
        [("a", tarfile.SYMTYPE, "."), ("a/b", tarfile.SYMTYPE, "../..")],
        [("hard", tarfile.LNKTYPE, "/etc/passwd")],
        [("device", tarfile.CHRTYPE, "")],
        [(".", tarfile.REGTYPE, "x")],
    ],
)
def test_members_outside_are_refused(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    with pytest.raises(InvalidRequest, match="refused"):
        unpack(_tar(*members), tmp_path / "dest")
    assert not (tmp_path / "evil").exists()


def test_a_damaged_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="damaged"):
        unpack(b"no tar at all" * 100, tmp_path / "dest")


def test_unpack_once_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    dest = tmp_path / "bundles" / "digest"
    with pytest.raises(InvalidRequest):
        unpack_once(_tar(("ok", tarfile.REGTYPE, "x"), ("../evil", tarfile.REGTYPE, "x")), dest)
    assert list(dest.parent.iterdir()) == []
    archive = _tar(("ok", tarfile.REGTYPE, "x"))
    assert unpack_once(archive, dest) == unpack_once(archive, dest) == dest
    assert (dest / "ok").read_text() == "x"
    assert [path.name for path in dest.parent.iterdir()] == ["digest"]

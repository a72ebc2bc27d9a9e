from __future__ import annotations

import os
from pathlib import Path

import pytest

from stoker.engine.local.state_file import PAGE_BYTES, read_state, write_state


@pytest.mark.parametrize("sizes", [(10, 2000, 5), (PAGE_BYTES * 3, 1, PAGE_BYTES * 2)])
def test_the_last_document_is_read(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    path = tmp_path / "state"
    assert read_state(path) is None
    for size in sizes:
        write_state(path, ["x" * size])
        assert read_state(path) == ["x" * size]
    assert path.stat().st_mode & 0o777 in (0o600, 0o644)


def test_a_writer_killed_before_it_cut_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_state(path, ["old " * 100])
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b'["new"]\n', 0)
    os.close(fd)
    assert read_state(path) == ["new"]


def test_garbage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("garbage")
    with pytest.raises(ValueError, match="Expecting value"):
        read_state(path)

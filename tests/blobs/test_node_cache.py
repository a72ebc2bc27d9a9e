"""Blobs of a remote store on a node: fetched once by all its processes, bounded, and never gone while in use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.blobs.node_cache import UNFINISHED_AGE_S, NodeCache
from stoker.errors import StoreError

KB = b"x" * 1000


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    return NodeCache(tmp_path / "cache", max_bytes=3000, clock=Clock())


def fill(data: bytes) -> Callable[[int], None]:
    def fetch(file: int) -> None:
        os.write(file, data)

    return fetch


def get(cache: NodeCache, name: str, data: bytes = KB) -> bytes:
    with cache.hold(name, size=lambda: len(data), fetch=fill(data)) as file:
        return os.read(file, 1 << 20)


def names(cache: NodeCache) -> set[str]:
    return {path.name for path in cache.root.iterdir() if path.is_file()}


def must_not(_file: int) -> None:
    raise AssertionError("it is here")


def test_what_is_here_is_not_fetched_again(cache: NodeCache) -> None:
    assert get(cache, "a") == KB
    with cache.hold("a", size=lambda: 0, fetch=must_not) as file:
        assert os.read(file, 5000) == KB


def test_what_was_not_used_for_longest_goes_first(cache: NodeCache) -> None:
    for name in ("a", "b", "c"):
        get(cache, name)
    get(cache, "a")
    get(cache, "d")
    assert names(cache) == {"a", "c", "d"}


def test_what_is_in_use_stays_and_room_is_made_elsewhere(cache: NodeCache) -> None:
    with cache.hold("a", size=lambda: 1000, fetch=fill(KB)):
        for name in ("b", "c", "d"):
            get(cache, name)
        assert names(cache) == {"a", "c", "d"}
        get(cache, "big", KB * 3)
        assert names(cache) == {"a", "big"}
    get(cache, "e")
    assert names(cache) == {"e"}, "the big one and the one before it were used earlier, and must both go"


def test_a_fetch_that_fails_leaves_nothing(cache: NodeCache) -> None:
    def fails(file: int) -> None:
        os.write(file, b"half")
        raise StoreError("S3 answered 503")

    with pytest.raises(StoreError, match="503"), cache.hold("a", size=lambda: 4, fetch=fails):
        pass
    assert names(cache) == set()
    assert not list((cache.root / "~new").iterdir())
    assert get(cache, "a") == KB
    assert not list((cache.root / "~locks").iterdir())


def test_a_disk_that_fails_is_told(cache: NodeCache) -> None:
    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    said = r"cache of blobs in .* failed: No space left on device. Free space"
    with pytest.raises(StoreError, match=said), cache.hold("a", size=lambda: 4, fetch=full):
        pass


def test_what_a_killed_process_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    clock = Clock()
    cache = NodeCache(tmp_path / "cache", max_bytes=1, clock=clock)
    for name, age in (("old", UNFINISHED_AGE_S + 60.0), ("new", 0.0)):
        path = cache.root / "~new" / name
        path.write_bytes(b"half")
        os.utime(path, (clock.now - age, clock.now - age))
    NodeCache(tmp_path / "cache", max_bytes=1, clock=clock)
    assert [path.name for path in (cache.root / "~new").iterdir()] == ["new"]


def test_threads_and_processes_fetch_once_together(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, threading\n"
        "from stoker.blobs.node_cache import NodeCache\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "def fetch(file):\n"
        "    with open(root / 'fetches', 'a') as log: log.write('x')\n"
        "    os.write(file, b'y' * 100_000)\n"
        "def read(name):\n"
        "    with NodeCache(root / 'cache', max_bytes=1 << 30).hold(name, size=lambda: 0, fetch=fetch) as file:\n"
        "        assert os.fstat(file).st_size == 100_000\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "threads = [threading.Thread(target=read, args=(f'blob{n % 3}',)) for n in range(12)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.communicate(b"\n", timeout=60)
        assert process.returncode == 0
    assert (tmp_path / "fetches").read_text() == "xxx"


def test_eviction_and_use_at_once_lose_nothing(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", max_bytes=2500)
    wrong: list[bytes] = []

    def use(first: int) -> None:
        for number in range(60):
            name = f"blob{(first + number) % 5}"
            data = name.encode() * 100
            got = get(cache, name, data + KB[: 1000 - len(data)])
            if not got.startswith(data):
                wrong.append(got)

    users = [threading.Thread(target=use, args=(first,)) for first in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert not wrong

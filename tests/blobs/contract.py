"""What every `BlobStore` must do. A suite for one implementation inherits this and gives the fixture ``blobs``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from threading import Thread

import pytest

from stoker.blobs.base import BlobStore
from stoker.errors import InvalidRequest, NotFound

REFUSED_KEYS = [
    "",
    ".",
    "..",
    "/a",
    "a/",
    "a//b",
    "a/b/c",
    "../a",
    "a/..",
    "./a",
    "a/.",
    "a b",
    "a\0b",
    "a\n",
    "~new",
    "a~",
    "ä",
    "a\\b",
    "a" * 201,
    "a/" + "b" * 199,
]
KEYS = [
    "a",
    "A.b_c-9",
    ".hidden",
    "...",
    "bundle/" + hashlib.sha256(b"one two").hexdigest(),
    "b" * 200,
    "a/" + "b" * 198,
]


class BlobStoreContract:
    @pytest.mark.parametrize("key", KEYS)
    def test_what_was_put_is_got(self, blobs: BlobStore, key: str) -> None:
        assert blobs.put(key, [b"one ", memoryview(b"two"), b""]) == 7
        assert blobs.get(key) == b"one two"
        assert blobs.size(key) == 7
        assert blobs.has(key)

    @pytest.mark.parametrize("key", REFUSED_KEYS)
    def test_what_is_no_key_is_refused_by_every_verb(self, blobs: BlobStore, key: str) -> None:
        verbs: list[Callable[[str], object]] = [blobs.get, blobs.size, blobs.has, blobs.delete]
        for verb in verbs:
            with pytest.raises(InvalidRequest, match="blob key"):
                verb(key)
        with pytest.raises(InvalidRequest, match="blob key"):
            blobs.put(key, [b"x"])
        with pytest.raises(InvalidRequest, match="blob key"), blobs.open_mapped(key):
            pass

    def test_a_missing_key_is_not_found(self, blobs: BlobStore) -> None:
        for key in ("a", "space/a"):
            assert not blobs.has(key)
            with pytest.raises(NotFound, match=key):
                blobs.get(key)
            with pytest.raises(NotFound, match=key):
                blobs.size(key)
            with pytest.raises(NotFound, match=key), blobs.open_mapped(key):
                pass
            blobs.delete(key)

    def test_a_key_and_a_namespace_may_be_named_alike(self, blobs: BlobStore) -> None:
        blobs.put("a", [b"plain"])
        blobs.put("a/a", [b"in a namespace"])
        assert (blobs.get("a"), blobs.get("a/a")) == (b"plain", b"in a namespace")

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [(0, 3, b"012"), (3, None, b"3456789"), (8, 10, b"89"), (10, 5, b""), (99, None, b""), (4, 0, b"")],
    )
    def test_a_range_is_what_a_slice_would_be(
        self, blobs: BlobStore, start: int, length: int | None, expected: bytes
    ) -> None:
        blobs.put("a", [b"0123456789"])
        assert blobs.get("a", start=start, length=length) == expected

    def test_a_range_below_zero_is_refused(self, blobs: BlobStore) -> None:
        blobs.put("a", [b"0123456789"])
        with pytest.raises(InvalidRequest, match="range"):
            blobs.get("a", start=-1)
        with pytest.raises(InvalidRequest, match="range"):
            blobs.get("a", length=-1)

    def test_a_put_replaces_what_was_there(self, blobs: BlobStore) -> None:
        blobs.put("a", [b"something long"])
        with blobs.open_mapped("a") as before:
            blobs.put("a", [b"new"])
            assert bytes(before) == b"something long"
        assert blobs.get("a") == b"new"

    def test_an_empty_blob_is_one(self, blobs: BlobStore) -> None:
        assert blobs.put("a", []) == 0
        assert blobs.has("a")
        assert blobs.get("a") == b""
        with blobs.open_mapped("a") as view:
            assert len(view) == 0

    def test_a_deleted_blob_is_gone(self, blobs: BlobStore) -> None:
        blobs.put("a/b", [b"x"])
        blobs.delete("a/b")
        blobs.delete("a/b")
        assert not blobs.has("a/b")
        assert blobs.keys("a") == []

    def test_keys_are_those_of_one_namespace_sorted(self, blobs: BlobStore) -> None:
        for key in ("b", "a", "one/c", "one/b", "two/a"):
            blobs.put(key, [b""])
        assert blobs.keys() == ["a", "b"]
        assert blobs.keys("one") == ["one/b", "one/c"]
        assert blobs.keys("none") == []

    @pytest.mark.parametrize("namespace", ["..", "a/b", "~", "/"])
    def test_what_is_no_namespace_is_refused(self, blobs: BlobStore, namespace: str) -> None:
        with pytest.raises(InvalidRequest, match="blob"):
            blobs.keys(namespace)

    def test_a_mapped_blob_cannot_be_written(self, blobs: BlobStore) -> None:
        blobs.put("a", [b"0123456789" * 1000])
        with blobs.open_mapped("a") as view:
            assert view.readonly
            assert bytes(view[9995:]) == b"56789"

    def test_what_is_built_on_a_mapped_blob_may_outlive_the_block(self, blobs: BlobStore) -> None:
        blobs.put("a", [b"0123456789"])
        with blobs.open_mapped("a") as view:
            part = memoryview(view)[2:4]
        assert bytes(part) == b"23"

    def test_what_the_block_raises_passes_as_it_is(self, blobs: BlobStore) -> None:
        blobs.put("a", [b"x"])
        with pytest.raises(OSError, match="of the block"), blobs.open_mapped("a"):
            raise OSError("of the block")

    def test_parts_that_break_off_leave_what_was_there(self, blobs: BlobStore) -> None:
        def parts() -> Iterator[bytes]:
            yield b"x" * 100_000
            raise ConnectionResetError("the client went away")

        blobs.put("a", [b"old"])
        for key in ("a", "b"):
            with pytest.raises(ConnectionResetError, match="went away"):
                blobs.put(key, parts())
        assert blobs.get("a") == b"old"
        assert blobs.keys() == ["a"]

    def test_parts_of_any_item_size_are_bytes(self, blobs: BlobStore) -> None:
        assert blobs.put("a", [memoryview(b"01234567").cast("I")]) == 8
        assert blobs.get("a") == b"01234567"

    def test_puts_of_one_key_at_once_leave_one_of_them_whole(self, blobs: BlobStore) -> None:
        contents = [bytes([number]) * 50_000 for number in range(6)]
        threads = [Thread(target=blobs.put, args=("one/key", [content[:10], content[10:]])) for content in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert blobs.get("one/key") in contents
        assert blobs.keys("one") == ["one/key"]

"""What a blob store in a bucket does when the service, the network or the bucket fail."""

from __future__ import annotations

import hashlib
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stoker import paths
from stoker.blobs.base import BlobStore
from stoker.errors import StoreError

from . import s3

Open = Callable[[str], BlobStore]
BIG = 20 << 20


@pytest.fixture
def blobs(open_store: Open, address: str) -> BlobStore:
    return open_store(address)


def content(size: int) -> bytes:
    return hashlib.shake_128(b"content").digest(size)


def bundle(data: bytes) -> str:
    return f"bundle/{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
def test_a_failure_that_passes_is_not_seen(blobs: BlobStore, proxy: s3.FaultyProxy, method: str, status: int) -> None:
    fault = proxy.add("status", method, "/space/a", status=status, times=2)
    if method == "DELETE":
        fault = proxy.add("status", "POST", "delete", status=status, times=2)
    blobs.put("space/a", [b"content"])
    assert (blobs.get("space/a"), blobs.size("space/a")) == (b"content", 7)
    blobs.delete("space/a")
    assert not blobs.has("space/a")
    assert fault.met == 2 or proxy.faults[0].met == 2


def test_a_service_that_stays_away_is_told_with_the_key_in_bounded_time(
    blobs: BlobStore, proxy: s3.FaultyProxy
) -> None:
    proxy.add("status", path="/space/")
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"blob space/a in s3://bucket-\d+/some/prefix could not be written.*503.*try"):
        blobs.put("space/a", [b"x"])
    with pytest.raises(StoreError, match=r"space/a .*could not be read.*503"):
        blobs.get("space/a")
    assert time.monotonic() - began < 20.0


def test_a_slow_service_is_asked_again_and_then_told(open_store: Open, hasty: str, proxy: s3.FaultyProxy) -> None:
    blobs = open_store(hasty)
    proxy.add("slow", "PUT", times=1)
    blobs.put("space/a", [b"content"])
    proxy.add("slow", "GET", times=1)
    assert blobs.get("space/a") == b"content"
    proxy.add("slow", "GET")
    with pytest.raises(StoreError, match=r"space/a .*S3 did not answer"):
        blobs.get("space/a")


def test_an_answer_that_breaks_off_is_read_again(blobs: BlobStore, proxy: s3.FaultyProxy) -> None:
    data = content(BIG)
    blobs.put("space/a", [data])
    proxy.add("cut", "GET", "/space/a", times=2)
    assert blobs.get("space/a") == data
    proxy.add("cut", "GET", "/space/a", times=2)
    with blobs.open_mapped("space/a") as view:
        assert view == data


def test_an_answer_that_always_breaks_off_is_told(blobs: BlobStore, proxy: s3.FaultyProxy) -> None:
    blobs.put("space/a", [content(1000)])
    proxy.add("cut", "GET", "/space/a")
    with pytest.raises(StoreError, match=r"space/a .*could not be read"):
        blobs.get("space/a")


def test_a_blob_damaged_on_its_way_is_fetched_once_more(blobs: BlobStore, proxy: s3.FaultyProxy) -> None:
    data = content(100_000)
    blobs.put(bundle(data), [data])
    proxy.add("corrupt", "GET", "/bundle/", times=1)
    assert blobs.get(bundle(data)) == data


def test_a_blob_that_is_damaged_where_it_lies_is_told_and_not_kept(blobs: BlobStore, proxy: s3.FaultyProxy) -> None:
    data = content(100_000)
    blobs.put(bundle(data), [b"somebody wrote this"])
    with pytest.raises(StoreError, match=rf"{bundle(data)} is corrupt: what s3://bucket-\d+/some/prefix gave"):
        blobs.get(bundle(data))
    with pytest.raises(StoreError, match="corrupt"), blobs.open_mapped(bundle(data)):
        pass
    assert proxy.count("GET", "/bundle/") == 4
    blobs.put(bundle(data), [data])
    assert blobs.get(bundle(data)) == data


def test_a_blob_is_fetched_once_by_all_of_a_node(open_store: Open, address: str, proxy: s3.FaultyProxy) -> None:
    data = content(1 << 20)
    open_store(address).put(bundle(data), [data])
    got: list[bytes] = []
    readers = [threading.Thread(target=lambda: got.append(open_store(address).get(bundle(data)))) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert got == [data] * 8
    assert proxy.count("GET", "/bundle/") == 1
    proxy.add("status")
    with open_store(address).open_mapped(bundle(data)) as view:
        assert view == data, "what is here needs no service"


def test_the_cache_is_bounded_and_keeps_what_is_mapped(open_store: Open, address: str) -> None:
    blobs = open_store(f"{address}&cache=1MB")
    contents = [bytes([number]) * 400_000 for number in range(6)]
    for data in contents:
        blobs.put(bundle(data), [data])
    with blobs.open_mapped(bundle(contents[0])) as mapped:
        outlives = memoryview(mapped)[:10]
        for data in contents[1:]:
            assert blobs.get(bundle(data)) == data
        assert mapped == contents[0]
        assert _cached(contents) == {0, 5}
    assert blobs.get(bundle(contents[1])) == contents[1]
    assert 0 in _cached(contents), "what was built on the block is still there"
    assert bytes(outlives) == b"\0" * 10
    del outlives


def _cached(contents: list[bytes]) -> set[int]:
    names = {path.name for path in paths.blob_cache().iterdir()}
    return {number for number, data in enumerate(contents) if hashlib.sha256(data).hexdigest() in names}


def test_big_blobs_go_in_parts_and_need_no_memory(blobs: BlobStore, proxy: s3.FaultyProxy, tmp_path: Path) -> None:
    size = 96 << 20

    def parts() -> Iterator[bytes]:
        for number in range(size >> 20):
            yield bytes([number % 256]) * (1 << 20)

    blobs.put("space/warm", [content(BIG)])
    with blobs.open_mapped("space/warm"):
        pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert blobs.put("space/big", parts()) == size
    assert blobs.size("space/big") == size
    assert blobs.get("space/big", start=size - 2, length=10) == b"\x5f\x5f"
    with blobs.open_mapped("space/big") as view:
        assert (len(view), view[0], view[-1]) == (size, 0, 95)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < size / 2
    assert proxy.count("PUT", "partNumber=") >= size // (8 << 20)


def test_parts_that_break_off_leave_no_upload_behind(blobs: BlobStore, proxy: s3.FaultyProxy) -> None:
    def parts() -> Iterator[bytes]:
        yield content(BIG)
        raise FileNotFoundError("of the source")

    with pytest.raises(FileNotFoundError, match="of the source"):
        blobs.put("space/a", parts())
    assert not blobs.has("space/a")
    assert proxy.count("DELETE", "uploadId=") == 1


def test_an_upload_that_fails_in_the_middle_leaves_what_was_there(blobs: BlobStore, proxy: s3.FaultyProxy) -> None:
    blobs.put("space/a", [b"old"])
    proxy.add("status", "PUT", "partNumber=2", status=500)
    with pytest.raises(StoreError, match=r"space/a .*could not be written.*500"):
        blobs.put("space/a", [content(BIG)])
    assert blobs.get("space/a") == b"old"


def test_keys_come_in_pages(blobs: BlobStore, proxy: s3.FaultyProxy) -> None:
    wanted = sorted(f"many/k{number:04}" for number in range(1001))
    halves = [wanted[number::4] for number in range(4)]
    writers = [threading.Thread(target=lambda some=some: [blobs.put(key, [b""]) for key in some]) for some in halves]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert blobs.keys("many") == wanted
    assert proxy.count("GET", "continuation-token=") == 1


def test_no_secret_is_in_any_error(
    open_store: Open, bucket: str, proxy: s3.FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    options = f"endpoint=http://127.0.0.1:{proxy.port}&allow_http=true&patience=1s&timeout=1s"
    blobs = open_store(f"s3://{bucket}?{options}&access_key_id=visible-id&secret_access_key={s3.SECRET_KEY}")
    for kind, status in (("status", 403), ("status", 500), ("slow", 0)):
        proxy.faults.clear()
        proxy.add(kind, status=status)
        with pytest.raises(StoreError) as caught:
            blobs.put("a", [b"x"])
        assert s3.SECRET_KEY not in str(caught.value)
        assert "visible-id" not in str(caught.value)
        assert s3.SECRET_KEY not in repr(blobs)

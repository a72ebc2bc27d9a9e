"""A bucket of S3, Google Cloud Storage or Azure through obstore: objects under keys, in parts, with retries.

Requests that fail by the service's fault (5xx, a connection that breaks, no answer in time) are made again by the
driver, with growing waits, for as long as the location's patience; after that the error says so. Memory is flat: big
objects go up and come down in parts.

This is the only module that imports obstore, and it is imported only where an address asks for it.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from stoker.blobs.bucket_errors import Broken, said_by, translated
from stoker.blobs.location import BlobLocation
from stoker.errors import NotFound, StoreError, StoreUnavailable

PART_BYTES = 8 << 20  # 10 000 parts are the most that S3 takes, so that an object may have 80 GB
PARTS_AT_ONCE = 4  # in memory and on the wire: what one part more would gain is below the noise past this
CONNECT_SECONDS = 5.0
READS_MAX = 5  # of one part whose connection breaks in the middle, each of which the driver takes up again itself
FIRST_WAIT_SECONDS = 0.1
LAST_WAIT_SECONDS = 10.0

T = TypeVar("T")


class Found(NamedTuple):
    """What the service says of an object. ``tag`` changes with its bytes."""

    size: int
    tag: str


class Bucket:
    """See the module. Errors are `NotFound` for a key that is not there and `StoreError` for all else."""

    def __init__(self, location: BlobLocation, *, wait: Callable[[float], None] = time.sleep) -> None:
        location.check_endpoint(os.environ)
        self.location = location
        self._wait = wait
        with self._translated("open", ""):
            self._store = _open(location)

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        """Store an object, all or nothing; return its size. What the parts raise passes as it is."""
        source = _Source(parts)
        first = source.take(PART_BYTES + 1)
        with self._translated("write", key, source):
            if len(first) <= PART_BYTES:
                obstore.put(self._store, key, first, use_multipart=False)
            else:
                everything = source.rest(first)
                obstore.put(
                    self._store,
                    key,
                    everything,
                    use_multipart=True,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_AT_ONCE,
                )
        return source.size

    def get(self, key: str, start: int, length: int | None) -> bytes:
        if length == 0:
            self.head(key)
            return b""
        stop = None if length is None else start + length
        part = self._part(key, start, min(start + PART_BYTES, stop or start + PART_BYTES))
        if part is None:
            return b""
        data, found = part
        end = found.size if stop is None else min(stop, found.size)
        if start + len(data) >= end:
            return data
        out = io.BytesIO()  # whose bytes are handed out without another copy
        out.write(data)
        for at in range(start + len(data), end, PART_BYTES):
            out.write(self._whole_part(key, at, min(at + PART_BYTES, end), found.tag))
        return out.getvalue()

    def download(self, key: str, found: Found, file: int) -> None:
        """Write an object into a file, several parts at a time."""

        def fetch(at: int) -> None:
            data = memoryview(self._whole_part(key, at, min(at + PART_BYTES, found.size), found.tag))
            while data:
                written = os.pwrite(file, data, at)
                data, at = data[written:], at + written

        starts = range(0, found.size, PART_BYTES)
        if len(starts) <= 1:
            for at in starts:
                fetch(at)
            return
        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="blob-parts") as threads:
            fetching = [threads.submit(fetch, at) for at in starts]
            try:
                for future in fetching:
                    future.result()
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def head(self, key: str) -> Found:
        with self._translated("look up", key):
            meta = obstore.head(self._store, key)
        return Found(meta["size"], meta["e_tag"] or "")

    def delete(self, key: str) -> None:
        try:
            with self._translated("delete", key):
                obstore.delete(self._store, key)
        except NotFound:
            pass  # Google and Azure say so, S3 does not

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that lie directly under a prefix, page by page; an empty one means the top."""
        depth = prefix.count("/") + 1 if prefix else 0
        with self._translated("list", prefix):
            if not prefix:
                found = obstore.list_with_delimiter(self._store)
                yield from (meta["path"] for meta in found["objects"])
                return
            for page in obstore.list(self._store, prefix):
                yield from (meta["path"] for meta in page if meta["path"].count("/") == depth)

    def _whole_part(self, key: str, start: int, stop: int, tag: str) -> bytes:
        part = self._part(key, start, stop, tag=tag)
        if part is None or len(part[0]) != stop - start:
            got = 0 if part is None else len(part[0])
            raise StoreError(
                f"The blob {key} in {self.location.place}: {stop - start} bytes from {start} were asked for, and {got} "
                "came. Something else writes there; give Stoker a prefix of its own."
            )
        return part[0]

    def _part(self, key: str, start: int, stop: int, *, tag: str = "") -> tuple[bytes, Found] | None:
        """Return a range and what the object is; None if it begins behind the object's end."""
        options: Any = {"range": (start, stop)}
        if tag:
            options["if_match"] = tag
        wait = FIRST_WAIT_SECONDS
        until = time.monotonic() + self.location.patience
        for tries in range(1, READS_MAX + 1):
            try:
                with self._translated("read", key):
                    answer = obstore.get(self._store, key, options=options)
                    meta = answer.meta
                    try:
                        data = bytes(answer.bytes())
                    except exceptions.GenericError as error:
                        raise Broken(said_by(error)) from error
            except IndexError:
                return None
            except Broken as error:
                if tries == READS_MAX or time.monotonic() > until:
                    raise StoreUnavailable(
                        f"The blob {key} in {self.location.place} could not be read: the connection broke off in the "
                        f"middle {tries} times ({self._masked(str(error))}). Try again; look at the service."
                    ) from error
                self._wait(wait)
                wait = min(2 * wait, LAST_WAIT_SECONDS)
            else:
                return data, Found(meta["size"], meta["e_tag"] or "")
        raise AssertionError("unreachable: the last try returns or raises")

    def _masked(self, text: str) -> str:
        return self.location.masked(text, os.environ)

    def _translated(self, verb: str, key: str, source: _Source | None = None) -> _Translation:
        return _Translation(self.location, verb, key, source)


class _Translation:
    """Raises as one of our errors what the driver raises in the block; what a source of parts raised passes."""

    def __init__(self, location: BlobLocation, verb: str, key: str, source: _Source | None) -> None:
        self._location, self._verb, self._key, self._source = location, verb, key, source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._source is not None and self._source.error is not None:
            raise self._source.error
        if isinstance(error, (exceptions.BaseError, FileNotFoundError)):
            raise translated(error, self._location, self._verb, self._key) from error


class _Source:
    """The parts of an object that is written: counted, cut small enough, and with what went wrong in them."""

    def __init__(self, parts: Iterable[bytes | memoryview]) -> None:
        self._parts = self._cut(parts)
        self.size = 0
        self.error: BaseException | None = None

    def take(self, wanted: int) -> bytes:
        """Return the first bytes: as many as wanted, or a part more; all, if there are fewer."""
        taken = bytearray()
        while len(taken) < wanted:
            part = next(self._parts, None)
            if part is None:
                break
            taken += part
        return bytes(taken)

    def rest(self, first: bytes) -> Iterator[bytes | memoryview]:
        """Yield what was taken, and all that is left."""
        yield first
        try:
            yield from self._parts
        except BaseException as error:
            self.error = error
            raise

    def _cut(self, parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for part in parts:
            with memoryview(part) as whole, whole.cast("B") as view:
                self.size += len(view)
                for at in range(0, len(view), PART_BYTES):
                    yield bytes(view[at : at + PART_BYTES])


def _open(location: BlobLocation) -> ObjectStore:
    config: Any = dict(location.options)
    client: Any = {
        "timeout": timedelta(seconds=location.timeout),
        "connect_timeout": timedelta(seconds=min(location.timeout, CONNECT_SECONDS)),
    }
    if location.allow_http:
        client["allow_http"] = True
    retries: Any = {
        "max_retries": 1000,  # the time decides
        "retry_timeout": timedelta(seconds=location.patience),
        "backoff": {
            "init_backoff": timedelta(seconds=FIRST_WAIT_SECONDS),
            "max_backoff": timedelta(seconds=LAST_WAIT_SECONDS),
            "base": 2,
        },
    }
    named: Any = {
        "prefix": location.prefix or None,
        "config": config,
        "client_options": client,
        "retry_config": retries,
    }
    if location.scheme == "s3":
        return S3Store(location.bucket, **named)
    if location.scheme == "gs":
        if "endpoint" in config:
            config["base_url"] = config.pop("endpoint")
        return GCSStore(location.bucket, **named)
    return AzureStore(location.bucket, **named)

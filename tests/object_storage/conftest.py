from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from stoker.blobs.base import BlobStore

from . import s3

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """S3, for all tests of this process."""
    s3.need()
    with s3.s3_server() as port:
        yield port


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3_port: int, credentials: None) -> str:
    """A bucket that no other test has."""
    name = f"bucket-{next(_numbers)}"
    assert s3.ask(s3_port, "PUT", f"/{name}")[0] == 200
    return name


@pytest.fixture
def proxy(s3_port: int) -> Iterator[s3.FaultyProxy]:
    with s3.faulty_proxy(s3_port) as proxy:
        yield proxy


@pytest.fixture
def address(bucket: str, proxy: s3.FaultyProxy) -> str:
    """The address of that bucket, through the proxy, with little patience for failures."""
    options = "region=us-east-1&allow_http=true&timeout=40s&patience=3s"
    return f"s3://{bucket}/some/prefix?endpoint=http://127.0.0.1:{proxy.port}&{options}"


@pytest.fixture
def hasty(address: str) -> str:
    """The same, with little patience for slow answers as well."""
    return address.replace("timeout=40s", "timeout=1s")


@pytest.fixture
def open_store(own_home: object) -> Callable[[str], BlobStore]:
    """Open stores, all of one node."""
    from stoker.blobs.opening import open_blobs

    return open_blobs

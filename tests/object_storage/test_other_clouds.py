"""Google Cloud Storage and Azure: what can be known of them without them."""

from __future__ import annotations

import pytest

from stoker.blobs.base import BlobStore
from stoker.blobs.opening import open_blobs
from stoker.errors import InvalidOption, StoreError, StoreUnavailable

from . import s3


@pytest.fixture(autouse=True)
def nothing_from_outside(own_home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.need()
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)


def opened(address: str) -> BlobStore:
    return open_blobs(address)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("az://container/x", "Account must be specified.*Set AZURE_STORAGE_ACCOUNT_NAME"),
        ("az://container/x?account_name=abc&account_key=secret-but-no-base64!", "Invalid Access Key"),
        ("gs://bucket/x?service_account=/nowhere.json", "nowhere.json.*Set GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://bucket/x?service_account_key=no-json", "service account"),
    ],
)
def test_what_cannot_be_is_told_as_it_is_opened(address: str, said: str) -> None:
    with pytest.raises(StoreError, match=f"(?s){said}.*or correct the address") as caught:
        opened(address)
    assert "secret-but" not in str(caught.value)


def test_azure_that_does_not_answer() -> None:
    options = "account_name=abc&account_key=bm90YQ==&endpoint=http://127.0.0.1:9&allow_http=true&patience=1s"
    with pytest.raises(StoreUnavailable, match=r"az://container/x .*Azure Blob Storage did not answer") as caught:
        opened(f"az://container/x?{options}").put("a", [b"x"])
    assert "bm90YQ==" not in str(caught.value)


def test_an_endpoint_without_encryption_has_to_be_allowed() -> None:
    with pytest.raises(InvalidOption, match="not encrypted"):
        opened("gs://bucket/x?endpoint=http://127.0.0.1:9")

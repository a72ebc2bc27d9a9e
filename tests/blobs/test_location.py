"""Addresses of object stores: read, refused with what is wrong, and shown without their secrets."""

from __future__ import annotations

import pytest

from stoker.blobs.location import CACHE_BYTES, BlobLocation, shown_address
from stoker.errors import InvalidOption

SECRET = "do-not-show-this"


def test_an_address_is_a_bucket_a_prefix_and_options() -> None:
    found = BlobLocation.parse("s3://my-bucket/a/b/?endpoint=https://s3.example.com&region=eu-central-1&cache=2GiB")
    assert (found.scheme, found.bucket, found.prefix) == ("s3", "my-bucket", "a/b")
    assert found.options == {"endpoint": "https://s3.example.com", "region": "eu-central-1"}
    assert (found.cache_bytes, found.allow_http) == (2 << 30, False)
    plain = BlobLocation.parse("gs://bucket?timeout=5s&patience=1m")
    assert (plain.prefix, plain.options, plain.cache_bytes) == ("", {}, CACHE_BYTES)
    assert (plain.timeout, plain.patience) == (5.0, 60.0)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "has no scheme"),
        ("bucket/prefix", "has no scheme"),
        ("ftp://bucket/x", "ftp:// is no blob store"),
        ("gcs://bucket/x", "Did you mean gs://?"),
        ("s3a://bucket/x", "Did you mean s3://?"),
        ("azure://bucket/x", "Did you mean az://?"),
        ("s3:///x", "names no bucket"),
        ("s3://x/y", "names no bucket"),
        ("s3://UPPER/y", "names no bucket"),
        ("s3://bucket/a//b", "prefix that cannot be"),
        ("s3://bucket/../b", "prefix that cannot be"),
        ("s3://bucket/a b", "prefix that cannot be"),
        ("s3://bucket/a#b", "prefix that cannot be"),
        ("s3://bucket?regon=x", "Did you mean region?"),
        ("s3://bucket?account_name=x", "is unknown"),
        ("s3://bucket?region=a&region=b", "given twice"),
        ("s3://bucket?region=", "no value"),
        ("s3://bucket?allow_http=yes", "true or false"),
        ("s3://bucket?cache=much", "is not a size"),
        ("s3://bucket?timeout=soon", "is not a duration"),
        ("s3://bucket?region", "cannot be read"),
        (f"s3://key:{SECRET}@bucket/x", "no credentials before the bucket"),
        (f"s3://bucket?secret_acces_key={SECRET}", "Did you mean secret_access_key?"),
        (f"s3://bucket/x y?secret_access_key={SECRET}", "prefix that cannot be"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_wrong(address: str, said: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        BlobLocation.parse(address)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in shown_address(address)


@pytest.mark.parametrize(
    "option",
    [
        "s3://bucket?secret_access_key",
        "s3://bucket?session_token",
        "gs://bucket?service_account_key",
        "az://bucket?sas_key",
    ],
)
def test_a_secret_is_not_shown(option: str) -> None:
    found = BlobLocation.parse(f"{option}={SECRET}")
    assert found.shown.endswith("=***")
    assert SECRET not in repr(found) + found.shown + found.place
    text = found.masked(
        f"at http://host/x?sig=abc&se=1 with {SECRET} and env-secret", {"AZURE_STORAGE_KEY": "env-secret"}
    )
    assert text == "at http://host/x with *** and ***"


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("host:9000", "no URL of a service"),
        ("nonsense", "no URL of a service"),
        ("http://", "no URL of a service"),
        ("http://host:port", "no URL of a service"),
        ("http://user:word@host", "no URL of a service"),
        ("http://host:9000", "not encrypted"),
    ],
)
def test_an_endpoint_is_checked_also_the_environments(endpoint: str, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        BlobLocation.parse(f"s3://bucket?endpoint={endpoint}").check_endpoint({})
    with pytest.raises(InvalidOption, match=f"AWS_ENDPOINT_URL.*{said}"):
        BlobLocation.parse("s3://bucket").check_endpoint({"AWS_ENDPOINT_URL": endpoint})


def test_an_endpoint_that_is_allowed() -> None:
    BlobLocation.parse("s3://bucket?endpoint=http://host:9000&allow_http=true").check_endpoint({})
    BlobLocation.parse("s3://bucket?endpoint=http://host:9000").check_endpoint({"AWS_ALLOW_HTTP": "true"})
    BlobLocation.parse("s3://bucket?endpoint=https://host").check_endpoint({"AWS_ENDPOINT_URL": "nonsense"})

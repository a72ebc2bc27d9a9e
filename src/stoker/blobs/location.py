"""Where an object store is: ``s3://bucket/prefix?endpoint=…``, read and checked before anything is asked of it.

Credentials come from the usual environment variables of each cloud, or from options of the address. What is secret
among them is never shown: `BlobLocation.shown` is for people, and `BlobLocation.masked` cleans texts of others.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from stoker.errors import InvalidOption, StokerError
from stoker.quantities import parse_duration, parse_size

HIDDEN = "***"
CACHE_BYTES = 10 << 30  # of blobs on a node's disk: bundles are small, so this holds thousands

# What the driver of each cloud calls an option, and whether its value is secret.
_S3 = {
    "endpoint": False,
    "region": False,
    "access_key_id": True,
    "secret_access_key": True,
    "session_token": True,
    "virtual_hosted_style_request": False,
    "skip_signature": False,
    "server_side_encryption": False,
    "sse_kms_key_id": False,
}
_GS = {"endpoint": False, "service_account": False, "service_account_key": True, "skip_signature": False}
_AZ = {
    "endpoint": False,
    "account_name": False,
    "account_key": True,
    "sas_key": True,
    "client_id": False,
    "client_secret": True,
    "tenant_id": False,
    "use_emulator": False,
    "skip_signature": False,
}
_OPTIONS = {"s3": _S3, "gs": _GS, "az": _AZ}
_EVERYWHERE = ("allow_http", "cache", "timeout", "patience")
_SWITCHES = frozenset({"allow_http", "virtual_hosted_style_request", "skip_signature", "use_emulator"})
_ENDPOINT_VARIABLES = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": (),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_SECRET_VARIABLE = re.compile(r"(AWS|AZURE|GOOGLE)_.*(KEY|TOKEN|SECRET|SAS).*")
_SECRET_MIN_CHARS = 4  # a shorter value may stand in any text

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9._=-]+(?:/[A-Za-z0-9._=-]+)*")
_QUERY_OF_URL = re.compile(r"(https?://[^\s?\"')]+)\?[^\s\"')]+")

NAMES = {"s3": "S3", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}


@dataclass(frozen=True)
class BlobLocation:
    """A bucket, a prefix in it, and how to reach them. ``options`` are the driver's own, as texts.

    ``timeout``: seconds for one request. ``patience``: seconds for which one that fails is tried again.
    """

    scheme: str
    bucket: str
    prefix: str
    options: Mapping[str, str] = field(repr=False)
    allow_http: bool = False
    cache_bytes: int = CACHE_BYTES
    timeout: float = 60.0
    patience: float = 45.0

    @classmethod
    def parse(cls, url: str) -> BlobLocation:
        """Read an address.

        Raises:
            InvalidOption: it is none; the message shows nothing of it that may be secret.
        """
        try:
            parts = urlsplit(url)
            query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise InvalidOption(f"The address of the blob store cannot be read: {error}. {_EXAMPLE}") from None
        if parts.scheme not in _OPTIONS:
            raise InvalidOption(_wrong_scheme(parts.scheme))
        if "@" in parts.netloc:
            raise InvalidOption(
                f"An address {parts.scheme}://… has no credentials before the bucket: they belong into the usual "
                "environment variables of the cloud."
            )
        prefix = parts.path.strip("/")
        shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
        if not _BUCKET.fullmatch(parts.netloc):
            raise InvalidOption(f"{shown} names no bucket: 3 or more of a-z, 0-9, '.', '_' and '-'. {_EXAMPLE}")
        if parts.fragment or (prefix and (not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")))):
            raise InvalidOption(
                f"{shown} has a prefix that cannot be: use letters, digits, '.', '_', '=', '-' and '/'."
            )
        return cls(parts.scheme, parts.netloc, prefix, **_read_options(parts.scheme, query))

    @property
    def shown(self) -> str:
        """The address for people: without its secrets."""
        secret = _OPTIONS[self.scheme]
        options = [f"{name}={HIDDEN if secret[name] else value}" for name, value in self.options.items()]
        options += ["allow_http=true"] if self.allow_http else []
        return f"{self.place}?{'&'.join(options)}" if options else self.place

    @property
    def place(self) -> str:
        """The bucket and the prefix alone: for errors, which must be short."""
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")

    def masked(self, text: str, environ: Mapping[str, str]) -> str:
        """Return a text of somebody else's without any secret of ours: option, variable, or signature in a URL."""
        secret = _OPTIONS[self.scheme]
        values = [value for name, value in self.options.items() if secret[name]]
        values += [value for name, value in environ.items() if _SECRET_VARIABLE.fullmatch(name)]
        for value in sorted((v for v in values if len(v) >= _SECRET_MIN_CHARS), key=len, reverse=True):
            text = text.replace(value, HIDDEN)
        return _QUERY_OF_URL.sub(r"\1", text)

    def check_endpoint(self, environ: Mapping[str, str]) -> None:
        """Check the endpoint, where one is given: the driver itself ends by a panic on a malformed one.

        Raises:
            InvalidOption: it is no URL, or unencrypted without having been allowed.
        """
        found = [("its option endpoint", self.options["endpoint"])] if "endpoint" in self.options else []
        found += [(name, environ[name]) for name in _ENDPOINT_VARIABLES[self.scheme] if environ.get(name)]
        for name, value in found[:1]:
            _check_endpoint(f"{self.place}: {name}", value, allow_http=self.allow_http or _allows_http(environ))


_EXAMPLE = "Write it as s3://bucket/prefix, gs://bucket/prefix or az://container/prefix."


def shown_address(url: str) -> str:
    """Return an address without its secrets, also one that is wrong."""
    try:
        return BlobLocation.parse(url).shown
    except StokerError:
        return url.partition("?")[0].rpartition("@")[2]


def _wrong_scheme(scheme: str) -> str:
    said = f"{scheme}:// is no blob store that Stoker knows." if scheme else "The blob store's address has no scheme."
    near = {"gcs": "gs", "s3a": "s3", "s3n": "s3", "azure": "az", "abfs": "az", "abfss": "az", "wasb": "az"}.get(scheme)
    hint = f" Did you mean {near}://?" if near else ""
    return f"{said}{hint} {_EXAMPLE} Without --blobs, blobs lie on this machine's disk."


def _read_options(scheme: str, query: list[tuple[str, str]]) -> dict[str, Any]:
    known = _OPTIONS[scheme]
    options: dict[str, str] = {}
    found: dict[str, Any] = {"options": options}
    for name, value in query:
        said = f"The option {name} of {scheme}://"
        if name not in known and name not in _EVERYWHERE:
            near = difflib.get_close_matches(name, [*known, *_EVERYWHERE], n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join([*known, *_EVERYWHERE])}."
            raise InvalidOption(f"{said} is unknown. {hint}")
        if name in options or not value:
            raise InvalidOption(f"{said} {'is given twice' if name in options else 'has no value'}.")
        if name in _SWITCHES and value not in {"true", "false"}:
            raise InvalidOption(f"{said} is true or false, not {value!r:.40}.")
        if name == "cache":
            found["cache_bytes"] = parse_size(value, option=said)
        elif name in {"timeout", "patience"}:
            found[name] = parse_duration(value, option=said)
        elif name == "allow_http":
            found[name] = value == "true"
        else:
            options[name] = value
    return found


def _allows_http(environ: Mapping[str, str]) -> bool:
    return any(environ.get(name, "").lower() == "true" for name in ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP"))


def _check_endpoint(said: str, value: str, *, allow_http: bool) -> None:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or parts.username or parts.query:
        raise InvalidOption(f"{said} is no URL of a service: write it as https://host or http://host:port.")
    if parts.scheme == "http" and not allow_http:
        raise InvalidOption(
            f"{said} is {value}, which is not encrypted. Use https://, or add allow_http=true if the network is yours."
        )

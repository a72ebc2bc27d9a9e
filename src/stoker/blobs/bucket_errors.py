"""What an object store's failures mean, and what to do about them: its driver's errors as Stoker's own."""

from __future__ import annotations

import os
import re

from stoker.blobs.location import NAMES, BlobLocation
from stoker.errors import NotFound, StoreError, StoreUnavailable

_STATUS = re.compile(r"status code: (\d{3}) ?([A-Za-z ]*)")
_CODE = re.compile(r"<Code>([^<]{1,80})</Code>")
_REQUEST = re.compile(r"Error performing [A-Z]+ (\S+) in .* - (.+)", re.DOTALL)
_RETRIES = re.compile(r"after (\d+) retries")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist", "ContainerBeingDeleted")
_METADATA_SERVICE = ("169.254.169.254", "metadata.google.internal", "metadata/identity", "169.254.170.2")
_SAID_MAX_CHARS = 300

_RIGHTS = {"write": "write", "delete": "delete", "read": "read", "look up": "read", "list": "list"}

CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN for temporary ones)",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_KEY)",
}


class Broken(Exception):
    """An answer began well and broke off in the middle."""


def translated(error: BaseException, location: BlobLocation, verb: str, key: str) -> Exception:
    """Return an error of the driver's as one of ours; an `IndexError` for a range that begins behind the end."""
    text = str(error)
    what = f"The blob {key} in {location.place}" if key else f"The blob store {location.place}"
    if any(mark in text for mark in _NO_BUCKET):
        return StoreError(
            f"{what}: there is no bucket {location.bucket!r} at {NAMES[location.scheme]}. Create it, or name another "
            "with --blobs."
        )
    if isinstance(error, FileNotFoundError):
        return NotFound(f"There is no blob {key} in {location.place}.")
    status = _STATUS.search(text)
    number = int(status[1]) if status else 0
    if number == 416:
        return IndexError(key)
    said = location.masked(said_by(error), os.environ)
    if verb == "open":
        return StoreError(f"{what} cannot be: {said}. {CREDENTIALS[location.scheme]}, or correct the address.")
    kind = StoreUnavailable if _passes(text, number) else StoreError
    return kind(f"{what} could not be {_PAST[verb]}: {_advice(text, number, said, location, verb)}")


def said_by(error: BaseException) -> str:
    """Return the driver's words in one line: what the service answered, without the documents around it."""
    text = str(error).partition("\n\nDebug source")[0]
    status, code = _STATUS.search(text), _CODE.search(text)
    if status is not None:
        words = f"it answered {status[1]} {status[2].strip()}".rstrip()
        text = f"{words} ({code[1]})" if code else words
    elif (request := _REQUEST.search(text)) is not None:
        text = f"{request[2]} at {request[1]}"
    return " ".join(text.split())[:_SAID_MAX_CHARS]


_PAST = {
    "write": "written",
    "read": "read",
    "look up": "looked up",
    "delete": "deleted",
    "list": "listed",
}


def _passes(text: str, status: int) -> bool:
    """Tell whether it may go better later, without anybody changing anything here."""
    lasts = any(mark in text for mark in _METADATA_SERVICE) or "builder error" in text
    return status >= 500 or status == 429 or (not status and not lasts)


def _advice(text: str, status: int, said: str, location: BlobLocation, verb: str) -> str:
    service = NAMES[location.scheme]
    if any(mark in text for mark in _METADATA_SERVICE):
        return (
            f"no credentials for {service} were found, and this machine has no role either. "
            f"{CREDENTIALS[location.scheme]} where the server is started."
        )
    if status in {401, 403}:
        return (
            f"not permitted ({said}). The credentials are wrong, or lack the right to {_RIGHTS[verb]} objects there; "
            f"{CREDENTIALS[location.scheme]}, or give these the right."
        )
    if status >= 500 or status == 429:
        return f"{said}, also when asked again{_times(text)}. Nothing of it was kept; look at the service, try again."
    if status in {301, 307}:
        return f"{said}: the bucket is in another region. Add region=… to the address."
    if status:
        return f"{said}. Check the address and its options."
    if "builder error" in text:
        return "its endpoint is not encrypted, which must be allowed: add allow_http=true to the address."
    return f"{service} did not answer{_times(text)} ({said}). Check the endpoint and the network; then try again."


def _times(text: str) -> str:
    found = _RETRIES.search(text)
    return f" {found[1]} times within the patience" if found else ""

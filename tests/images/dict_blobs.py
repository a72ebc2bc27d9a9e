"""A blob store in a dict, and a collector that fills it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stoker.client.bundle import build_bundle
from stoker.errors import NotFound
from stoker.types import CodeRef


class DictBlobs:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        self.kept[key] = b"".join(bytes(part) for part in parts)
        return len(self.kept[key])

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        if key not in self.kept:
            raise NotFound(f"no blob {key}")
        return self.kept[key][start:] if length is None else self.kept[key][start : start + length]

    def size(self, key: str) -> int:
        return len(self.get(key))

    def has(self, key: str) -> bool:
        return key in self.kept

    def delete(self, key: str) -> None:
        self.kept.pop(key, None)

    def keys(self, namespace: str = "") -> list[str]:
        return sorted(key for key in self.kept if key.startswith(f"{namespace}/"))

    @contextmanager
    def open_mapped(self, key: str) -> Iterator[memoryview]:
        yield memoryview(self.get(key))


class Collecting:
    """Puts what an image ships straight into a blob store. A function's code is bundled from ``script``."""

    def __init__(self, blobs: DictBlobs, script: Path | None = None) -> None:
        self.blobs = blobs
        self.script = script
        self.freezes = False

    def add_blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs.put(f"bundle/{digest}", [data])
        return digest

    def code_ref(self, function: Callable[..., Any]) -> CodeRef:
        bundle = build_bundle(self.script or __import__(function.__module__))
        self.add_blob(bundle.archive)
        return CodeRef(module=bundle.module, qualname=function.__qualname__, bundle=bundle.digest)

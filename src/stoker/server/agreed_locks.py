"""The locks that nodes on other machines agree on, kept beside the blobs: of each name the first that is proposed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection

from stoker.blobs.base import BlobStore
from stoker.errors import InvalidRequest, NotFound

NAMESPACE = "lock"
TEXT_MAX_BYTES = 4 << 20  # some thousand packages, each with its hashes and what asked for it
_NAME = re.compile(r"([0-9a-f]{32})-3\.\d{1,3}")


class AgreedLocks:
    """See the module."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._turn = asyncio.Lock()  # two that come at once get the same

    async def agree(self, name: str, text: str) -> str:
        """Return the lock of this name; ``text`` becomes it where there is none, and with an empty one none may be.

        Raises:
            InvalidRequest: it is no name of a lock, or no text of one.
            StoreError: the blobs cannot be read or written.
        """
        if _NAME.fullmatch(name) is None:
            raise InvalidRequest(f"{name!r:.80} is no name of a lock.")
        data = text.encode()
        if len(data) > TEXT_MAX_BYTES:
            raise InvalidRequest(f"A lock of {len(data)} bytes is refused: at most {TEXT_MAX_BYTES} are kept.")
        async with self._turn:
            return await asyncio.to_thread(self._agree, f"{NAMESPACE}/{name}", data)

    def _agree(self, key: str, data: bytes) -> str:
        try:
            return self._blobs.get(key).decode()
        except NotFound:
            if data:
                self._blobs.put(key, [data])
            return data.decode()

    async def forget(self, recipes: Collection[str]) -> None:
        """Have these recipes resolved afresh when they are built next."""
        async with self._turn:
            await asyncio.to_thread(self._forget, set(recipes))

    def _forget(self, recipes: set[str]) -> None:
        for key in self._blobs.keys(NAMESPACE):
            found = _NAME.fullmatch(key.removeprefix(f"{NAMESPACE}/"))
            if found is not None and found[1] in recipes:
                self._blobs.delete(key)

from __future__ import annotations

import asyncio

import pytest

from stoker.blobs.memory import MemoryBlobStore
from stoker.errors import InvalidRequest
from stoker.server.agreed_locks import TEXT_MAX_BYTES, AgreedLocks

NAME = "0123456789abcdef" * 2 + "-3.11"


async def test_the_first_that_is_proposed_counts() -> None:
    locks = AgreedLocks(MemoryBlobStore())
    assert await locks.agree(NAME, "") == ""
    found = await asyncio.gather(*(locks.agree(NAME, f"six==1.{n}") for n in range(8)))
    assert set(found) == {found[0]} and found[0]
    assert await locks.agree(NAME, "") == found[0]
    assert await locks.agree(NAME.replace("3.11", "3.12"), "other") == "other"


async def test_what_was_forgotten_is_resolved_afresh() -> None:
    locks = AgreedLocks(MemoryBlobStore())
    other = "f" * 32 + "-3.11"
    await locks.agree(NAME, "a")
    await locks.agree(other, "b")
    await locks.forget({NAME[:32], "unknown"})
    assert await locks.agree(NAME, "c") == "c"
    assert await locks.agree(other, "c") == "b"


@pytest.mark.parametrize("name", ["", "../x", "0" * 32, f"{'0' * 32}-3.11/x", f"{'g' * 32}-3.11", f"{'0' * 32}-3.1111"])
async def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name of a lock"):
        await AgreedLocks(MemoryBlobStore()).agree(name, "text")


async def test_one_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most"):
        await AgreedLocks(MemoryBlobStore()).agree(NAME, "x" * (TEXT_MAX_BYTES + 1))

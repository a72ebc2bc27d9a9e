"""The fakes of Stoker's seams: each passes the contract suite of the real ones, and keeps everything in memory."""

from __future__ import annotations

from stoker.blobs.memory import MemoryBlobStore
from stoker.engine.fake import FakeEngine
from stoker.store.memory import MemoryBacking, MemoryStore

__all__ = ["FakeEngine", "MemoryBacking", "MemoryBlobStore", "MemoryStore"]

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stoker.engine.local import log_tails
from stoker.engine.local.log_files import LogQuery, read_logs
from stoker.engine.local.log_tails import LogTails
from stoker.engine.local.starts import Starter

TEXT = "shop.f: It cannot be built; uv says:\n  error: no such package\x1eforged"


def _lines(directory: Path, **params: Any) -> list[tuple[str, str, str]]:
    return [(x["label"], x["stream"], x["text"]) for x in read_logs(directory, LogQuery.of(params))]


def test_what_a_start_failed_with_is_among_a_functions_lines(tmp_path: Path) -> None:
    sent: list[Any] = []

    async def noted() -> None:
        tails = LogTails(tmp_path, send=sent.append, connected=lambda: True)
        for _ in range(3):
            tails.note_failed_start("key1", "shop.f", TEXT)
        tails.note_failed_start("key2", "shop.g", "shop.g: no disk")
        tails.flush()
        tails.close()

    asyncio.run(noted())
    assert _lines(tmp_path, app="shop", function="f") == [
        ("shop.f", "stoker", "not started: It cannot be built; uv says:"),
        ("shop.f", "stoker", "  error: no such package"),
        ("shop.f", "stoker", "forged"),
    ], "each is written once"
    assert _lines(tmp_path, functions=["key2"]) == [("shop.g", "stoker", "not started: no disk")]
    assert not sent, "who waits for a worker is told otherwise"


def test_a_file_of_failed_starts_has_a_bound(tmp_path: Path) -> None:
    async def noted() -> None:
        tails = LogTails(tmp_path, send=lambda _: None, connected=lambda: True)
        for i in range(20):
            tails.note_failed_start("key1", "shop.f", f"{i}" + "x" * (log_tails.FAILED_STARTS_BYTES // 4))
        tails.close()

    asyncio.run(noted())
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 1.5 * log_tails.FAILED_STARTS_BYTES


def test_a_start_that_cannot_be_noted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def start() -> list[Any]:
        sent: list[Any] = []
        told = asyncio.Event()
        logs = SimpleNamespace(note_failed_start=full, finish=lambda worker: None)
        capacity = SimpleNamespace(reserve=lambda *_, **__: True, release=lambda *_: None)
        stock: Any = SimpleNamespace(capacity=capacity, logs=logs)

        def send(message: Any) -> None:
            sent.append(message)
            told.set()

        starter = Starter(stock, send=send)
        monkeypatch.setattr(starter, "_bring_up", full)
        function = SimpleNamespace(key="k", label="a.f")
        starter.start(SimpleNamespace(worker="w1", cpus=1, memory=1, function=function))  # type: ignore[arg-type]
        await asyncio.wait_for(told.wait(), 20)
        return sent

    assert [message.worker for message in asyncio.run(start())] == ["w1"]

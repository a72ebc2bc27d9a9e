"""Rows to write in tests."""

from __future__ import annotations

from typing import Any

from stoker.store.base import AcceptedRow, ProgressRow, SettledRow
from stoker.types import CallState, CodeRef, ErrorInfo, FunctionSpec, ImageSpec


def accepted(seq: int, **changes: Any) -> AcceptedRow:
    values: dict[str, Any] = {
        "seq": seq,
        "id": f"c-0k3v9.{seq:06d}",
        "function": "pool-a",
        "client": "client-1",
        "priority": 0,
        "created": 1000.0 + seq,
    }
    return AcceptedRow(**{**values, **changes})


def settled(seq: int, **changes: Any) -> SettledRow:
    values: dict[str, Any] = {
        "seq": seq,
        "id": f"c-0k3v9.{seq:06d}",
        "state": CallState.SUCCEEDED,
        "finished": 2000.0 + seq,
        "attempts": 1,
    }
    return SettledRow(**{**values, **changes})


def progress(seq: int, failures: int, losses: int, not_before: float = 0.0, timeline: str = "") -> ProgressRow:
    return ProgressRow(seq, failures, losses, not_before, timeline)


def failure(text: str = "it broke") -> ErrorInfo:
    return ErrorInfo("builtins.ValueError", text, "Traceback ...", ["builtins.ValueError"], {"call_id": "c-1"})


def spec(name: str = "accuracy", **changes: Any) -> FunctionSpec:
    return FunctionSpec("digits", name, CodeRef("sweep", name), ImageSpec("3.12"), **changes)

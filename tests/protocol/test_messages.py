"""The bytes of every message: pinned, and the same on both sides of every link."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from stoker.protocol import messages as m
from stoker.protocol.frames import FrameReader
from stoker.protocol.structure import decode_header
from stoker.server import wire

from . import environments, message_samples
from .message_samples import SAMPLES

GOLDEN_FILE = Path(__file__).with_name("golden") / "frames.json"
GOLDEN: dict[str, str] = json.loads(GOLDEN_FILE.read_text(encoding="ascii"))


def name_of(value: Any) -> str:
    return type(value).__name__


def test_every_kind_has_golden_bytes() -> None:
    assert set(GOLDEN) == {kind.__name__ for kind in m.KINDS.values()}
    assert [type(sample) for sample in SAMPLES] == list(m.KINDS.values())


@pytest.mark.parametrize("version", environments.present())
def test_the_worker_side_writes_and_reads_the_golden_bytes(version: str) -> None:
    told = environments.run(environments.interpreter(version), "-S", message_samples.__file__, GOLDEN_FILE)
    assert told.strip() == f"{len(SAMPLES)} kinds"


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_the_server_reads_the_golden_bytes(sample: Any) -> None:
    ((kind, header, body),) = FrameReader().feed(bytes.fromhex(GOLDEN[name_of(sample)]))
    assert wire.decode(kind, header) == sample
    assert bytes(body) == message_samples.body_of(sample)


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_what_the_server_writes_is_the_same_document(sample: Any) -> None:
    body = message_samples.body_of(sample)
    written = b"".join(wire.encode(sample, [body] if body else []))
    ((kind, header, came),) = FrameReader().feed(written)
    ((golden_kind, golden_header, _),) = FrameReader().feed(bytes.fromhex(GOLDEN[name_of(sample)]))
    assert (kind, json.loads(header)) == (golden_kind, json.loads(golden_header))
    assert decode_header(kind, header) == sample
    assert bytes(came) == body


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_a_sample_leaves_no_field_at_its_default(sample: Any) -> None:
    """Else the golden bytes would not notice when it changes its place or name."""
    told = json.loads(next(iter(FrameReader().feed(bytes.fromhex(GOLDEN[name_of(sample)])))).header)
    assert list(told) == [f.name for f in fields(sample)]


def test_kinds_are_numbered_once_and_for_all() -> None:
    assert {name: bytes.fromhex(wire)[3] for name, wire in GOLDEN.items()} == {
        cls.__name__: kind for kind, cls in m.KINDS.items()
    }
    assert {kind: cls for cls, kind in m.KIND_OF.items()} == m.KINDS


def test_big_bodies_are_not_copied_into_the_frame() -> None:
    big = memoryview(bytes(200_000))
    head, part = wire.encode(m.Items("c", 1, 0, [len(big)]), [big])
    assert part is big
    assert len(head) < 200

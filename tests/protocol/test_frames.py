"""Frames on a byte stream: however it is cut, and whatever it lies about."""

from __future__ import annotations

import itertools
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker._version import PROTOCOL_VERSION
from stoker.errors import ProtocolError
from stoker.protocol.frames import (
    BODY_MAX_BYTES,
    GREETING_MAX_BYTES,
    HEADER_MAX_BYTES,
    PREFIX,
    FrameReader,
    decode_prefix,
    encode_prefix,
    split_body,
)

Plain = tuple[int, bytes, bytes]
frames = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40), st.binary(max_size=200)), max_size=8)


def joined(sent: list[Plain]) -> bytes:
    return b"".join(encode_prefix(kind, len(header), len(body)) + header + body for kind, header, body in sent)


def read(reader: FrameReader, data: bytes) -> list[Plain]:
    return [(kind, header, bytes(body)) for kind, header, body in reader.feed(data)]


@given(frames, st.lists(st.integers(0, 2000), max_size=30))
def test_a_stream_gives_the_same_frames_however_it_is_cut(sent: list[Plain], cuts: list[int]) -> None:
    stream = joined(sent)
    at = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    reader, came = FrameReader(), []
    for begin, end in itertools.pairwise(at):
        came += read(reader, stream[begin:end])
    assert came == sent
    assert reader.pending == 0


@given(frames.filter(bool))
def test_byte_by_byte(sent: list[Plain]) -> None:
    reader, came = FrameReader(), []
    for byte in joined(sent):
        came += read(reader, bytes([byte]))
    assert came == sent


@given(frames.filter(bool), st.data())
def test_a_truncated_stream_is_seen_as_such(sent: list[Plain], data: st.DataObject) -> None:
    stream = joined(sent)
    last = len(joined(sent[-1:]))
    cut = data.draw(st.integers(1, last - 1))
    reader = FrameReader()
    assert read(reader, stream[:-cut]) == sent[:-1]
    assert reader.pending == last - cut


def test_a_body_outlives_what_comes_after_it() -> None:
    reader = FrameReader()
    buffer = bytearray(joined([(1, b"{}", b"first")]))
    (frame,) = reader.feed(bytes(buffer))
    list(reader.feed(joined([(1, b"{}", b"other")])))
    assert bytes(frame.body) == b"first"


@given(st.binary(min_size=16, max_size=64).filter(lambda data: not data.startswith(b"St")))
def test_garbage_is_no_frame(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="no Stoker frame"):
        list(FrameReader().feed(data))


@given(st.integers(0, 255).filter(lambda version: version != PROTOCOL_VERSION))
def test_another_version_names_both(version: int) -> None:
    with pytest.raises(ProtocolError, match=f"protocol {version}, this is protocol {PROTOCOL_VERSION}"):
        list(FrameReader().feed(PREFIX.pack(b"St", version, 1, 0, 0)))


def prefix(header: int, body: int) -> bytes:
    """Return a prefix that `encode_prefix` would refuse to make."""
    return struct.pack("!2sBBIQ", b"St", PROTOCOL_VERSION, 1, header, body)


@pytest.mark.parametrize(
    ("header", "body"), [(HEADER_MAX_BYTES + 1, 0), (2**32 - 1, 0), (0, BODY_MAX_BYTES + 1), (0, 2**64 - 1)]
)
def test_more_than_the_limit_is_refused_as_soon_as_it_is_announced(header: int, body: int) -> None:
    with pytest.raises(ProtocolError, match="announces"):
        list(FrameReader().feed(prefix(header, body)))
    with pytest.raises(ProtocolError, match="at most"):
        encode_prefix(1, min(header, 2**32 - 1), body)


def test_the_limit_holds_for_the_next_frame_of_the_same_data() -> None:
    reader = FrameReader(limit=GREETING_MAX_BYTES)
    small, big = (1, b"{}", b""), (2, b"{}", bytes(GREETING_MAX_BYTES + 1))
    came = []
    for frame in reader.feed(joined([small, big])):
        came.append(frame.kind)
        reader.limit = BODY_MAX_BYTES  # its sender is known now
    assert came == [1, 2]
    with pytest.raises(ProtocolError, match=str(GREETING_MAX_BYTES)):
        list(FrameReader(limit=GREETING_MAX_BYTES).feed(joined([big])))


def test_an_announced_size_reserves_no_memory() -> None:
    tracemalloc.start()
    try:
        readers = [FrameReader() for _ in range(50)]
        for reader in readers:
            list(reader.feed(prefix(HEADER_MAX_BYTES, BODY_MAX_BYTES) + b"only this came"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert readers[0].pending == PREFIX.size + len(b"only this came")


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_protocol_errors(data: bytes) -> None:
    for start in (b"", b"St", b"St" + bytes([PROTOCOL_VERSION])):
        try:
            list(FrameReader().feed(start + data))
        except ProtocolError:
            pass


def test_decode_prefix_returns_what_was_encoded() -> None:
    assert decode_prefix(encode_prefix(13, 77, 1 << 20)) == (13, 77, 1 << 20)


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_a_body_is_cut_into_its_parts(parts: list[bytes]) -> None:
    assert [bytes(part) for part in split_body(b"".join(parts), [len(part) for part in parts])] == parts


@pytest.mark.parametrize("sizes", [[3], [5], [2, 3], [-1, 5], [5, -1], [], [2**63]])
def test_sizes_that_do_not_add_up(sizes: list[int]) -> None:
    with pytest.raises(ProtocolError):
        split_body(b"four", sizes)

"""The frames that are written by hand are those that the encoder writes."""

from __future__ import annotations

import pytest

from stoker.protocol.channel_frames import ANSWER, CALL, call_frame, called_id, value_frame
from stoker.protocol.frames import FrameReader, encode_prefix
from stoker.protocol.messages import ChannelAnswer, ChannelCall
from stoker.protocol.structure import decode_header, encode_header

ID = "c-01abcdefgh0123456789.0000002a"


def test_a_call_is_written_as_the_encoder_writes_it() -> None:
    kind, header = encode_header(ChannelCall(ID))
    assert call_frame(ID, b"args") == encode_prefix(kind, len(header), 4) + header + b"args"
    assert called_id(header) == ID


def test_a_value_is_written_as_the_encoder_writes_it() -> None:
    kind, header = encode_header(ChannelAnswer())
    assert value_frame(b"v") == encode_prefix(kind, len(header), 1) + header + b"v"


def test_both_are_read_like_any_other_frame() -> None:
    frames = FrameReader().feed(call_frame(ID, b"") + value_frame(b""))
    read = [decode_header(kind, header) for kind, header, _ in frames]
    assert read == [ChannelCall(ID), ChannelAnswer()]
    assert {CALL, ANSWER} == {62, 63}


@pytest.mark.parametrize("header", [b"", b"{}", b'{"id": "a"}', b'{"id":"a\\u0041"}', b'{"id":"a","b":"c"}', b"\xff"])
def test_an_id_that_is_written_otherwise_is_left_to_the_decoder(header: bytes) -> None:
    assert called_id(header) == ""

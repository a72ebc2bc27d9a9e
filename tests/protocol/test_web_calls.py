"""The payloads of calls over HTTP: there and back, and told from pickles."""

from __future__ import annotations

import pytest

from stoker.errors import ProtocolError
from stoker.protocol.payload import encode_call
from stoker.protocol.web_calls import (
    WebAnswer,
    WebRequest,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    is_request,
)


def test_there_and_back() -> None:
    request = WebRequest("POST", "/a", "b=1", [("accept", "*/*"), ("accept", "ü")], "127.0.0.1", "embed", b"\x00body")
    encoded = encode_request(request)
    assert is_request(encoded) and decode_request(encoded) == request
    answer = WebAnswer(201, [("a", "b")], b"\xff")
    assert decode_answer(encode_answer(answer)) == answer
    assert not is_request(encode_answer(answer)) and not is_request(encode_call((1,), {}).to_bytes())


@pytest.mark.parametrize("bad", [b"", b"R", b"R\xff\xff\xff\xff", b"W\x02\x00\x00\x00[]", b"R\x02\x00\x00\x00{}x"])
def test_what_is_none(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(bad)

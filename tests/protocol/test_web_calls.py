"""The payloads of calls over HTTP: there and back, and told from pickles."""

from __future__ import annotations

import msgspec
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
    join_request,
    request_line,
)


def test_there_and_back() -> None:
    request = WebRequest("POST", "/a", "b=1", [("accept", "*/*"), ("accept", "ü")], "127.0.0.1", "embed", b"\x00body")
    encoded = encode_request(request)
    assert is_request(encoded) and decode_request(encoded) == request
    answer = WebAnswer(201, [("a", "b")], b"\xff")
    assert decode_answer(encode_answer(answer)) == answer
    assert not is_request(encode_answer(answer)) and not is_request(encode_call((1,), {}).to_bytes())


def test_a_faster_encoder_says_the_same() -> None:
    headers = [("accept", "*/*"), ("content-type", "text/plain"), ("content-type", "x")]
    whole = WebRequest("PUT", "/a", "b=%20", headers, "::1", "embed", b"body")
    line = request_line(
        *("PUT", "/a", "b=%20"),
        client="::1",
        target="embed",
        accept="*/*",
        content_type="text/plain",
        dumps=msgspec.json.encode,
    )
    fast = join_request(line, msgspec.json.encode(headers), b"body")
    assert fast == encode_request(whole)


@pytest.mark.parametrize(
    "bad",
    [
        *(b"", b"W", b"W\xff\xff\xff\xff\0\0\0\0", b"W\2\0\0\0\2\0\0\0[]", b"W\2\0\0\0\2\0\0\0[][]"),
        *(b"W\3\0\0\0\2\0\0\0[1][]", b"R\2\0\0\0[]"),
    ],
)
def test_what_is_no_request(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_request(bad)


def test_headers_are_looked_at_when_they_are_wanted() -> None:
    good = encode_request(WebRequest("GET", headers=[("a", "b")]))
    assert decode_request(good).headers == [("a", "b")]
    request = decode_request(good.replace(b'[["a","b"]]', b'[["a","b"],'))
    assert request.method == "GET"
    with pytest.raises(ProtocolError):
        _ = request.headers


@pytest.mark.parametrize("bad", [b"", b"R", b"R\xff\xff\xff\xff", b"W\x02\x00\x00\x00[]", b"R\x02\x00\x00\x00{}x"])
def test_what_is_none(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(bad)

"""What an endpoint returns, as the answer to its request."""

from __future__ import annotations

from typing import Any

import pytest

import stoker
from stoker.protocol.web_calls import decode_answer
from stoker.web.answers import answer_of


@pytest.mark.parametrize(
    ("body", "sent", "media_type"),
    [
        ({"error": "no"}, b'{"error":"no"}', "application/json"),
        ([1.5, None], b"[1.5,null]", "application/json"),
        ("no", b"no", "text/plain; charset=utf-8"),
        (b"\xff", b"\xff", "application/octet-stream"),
        (memoryview(b"ab"), b"ab", "application/octet-stream"),
        (None, b"", "application/octet-stream"),
    ],
)
def test_the_body_of_a_response_says_its_media_type_unless_it_is_named(body: Any, sent: bytes, media_type: str) -> None:
    for named in ("", "text/html"):
        answer = decode_answer(answer_of(stoker.Response(body, status=404, media_type=named)))
        assert (answer.status, bytes(answer.body)) == (404, sent)
        assert dict(answer.headers)["content-type"] == (named or media_type)


def test_a_body_that_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError):
        answer_of(stoker.Response(object()))

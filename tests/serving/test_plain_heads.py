"""What is remembered of a head is what would be read of it again."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.server.gateway.plain_heads import BODY_BYTES, Headers, line_of, read_head, seen_by_function
from stoker.server.gateway.tracked import PARENT, REQUEST_ID

names = st.sampled_from([b"accept", b"content-type", b"x", b"authorization", b"content-length"])
values = st.binary(max_size=8).map(lambda text: text.replace(b"\n", b" "))
headers_of_requests = st.lists(st.tuples(names, values), max_size=5).map(tuple)


@given(headers_of_requests, st.text("0123456789abcdef", min_size=32, max_size=32).map(str.encode))
def test_a_function_sees_what_came_and_the_id_that_was_made(headers: Headers, made: bytes) -> None:
    lengths = [value for name, value in headers if name == b"content-length"]
    head = read_head(b"POST", b"/a/f", headers)
    if lengths and (not lengths[0].isdigit() or int(lengths[0]) > BODY_BYTES):
        assert head is None
        return
    assert head is not None and head.seen is not None
    assert b'%b%b"]]' % (head.seen, made) == seen_by_function([*headers, (REQUEST_ID, made)])
    assert not any(name == "authorization" for name, _ in msgspec.json.decode(seen_by_function(headers)))


@pytest.mark.parametrize("name", [REQUEST_ID, PARENT, b"tracestate"])
def test_ids_of_the_clients_own_are_looked_at_each_time(name: bytes) -> None:
    head = read_head(b"GET", b"/a/f", ((name, b"x"),))
    assert head is not None and head.seen is None


@pytest.mark.parametrize(
    ("url", "header"),
    [
        *((b"/a/f", (name, b"x")) for name in (b"origin", b"prefer", b"expect", b"upgrade", b"x-stoker-version")),
        *((b"/a/f", (b"content-length", value)) for value in (b"", b"-1", b"1,1", b"%d" % (BODY_BYTES + 1))),
        *((url, (b"accept", b"*/*")) for url in (b"", b"\xff", b"/\xff")),
    ],
)
def test_what_is_not_plain(url: bytes, header: tuple[bytes, bytes]) -> None:
    assert read_head(b"POST", url, (header,)) is None


def test_a_line_is_of_its_head_its_path_and_its_client() -> None:
    one, other = (read_head(b"GET", b"/a/f?x=%d" % n, ((b"accept", b"t/x"),)) for n in (1, 2))
    assert one is not None and other is not None
    lines = {
        line_of(*asked)
        for asked in [(one, "", "c", ""), (other, "", "c", ""), (one, "/r", "c", ""), (one, "", "d", "")]
    }
    assert len(lines) == 4
    assert msgspec.json.decode(line_of(one, "/r", "c", "m"))[:5] == ["GET", "/r", "x=1", "c", "m"]

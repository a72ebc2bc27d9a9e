from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import ProtocolError
from stoker.protocol.frames import PART_BYTES, PARTED_MAX_BYTES
from stoker.protocol.parts import GatheredBody, pieces


def test_pieces_are_no_bigger_than_a_part_and_nothing_is_copied() -> None:
    big = bytearray(2 * PART_BYTES + 1)
    found = list(pieces([b"ab", b"", big]))
    assert [len(piece) for piece in found] == [2, PART_BYTES, PART_BYTES, 1]
    assert found[1].obj is big


@given(st.lists(st.binary(max_size=50), min_size=1).filter(any))
def test_what_was_cut_is_put_together(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    body = GatheredBody(len(whole))
    for piece in pieces(parts):
        body.add(piece)
    assert body.whole(b"") == whole


@pytest.mark.parametrize("size", [0, -1, PARTED_MAX_BYTES + 1])
def test_an_announcement_that_cannot_be(size: int) -> None:
    with pytest.raises(ProtocolError, match="announced"):
        GatheredBody(size)


def test_more_less_and_other_than_was_announced() -> None:
    body = GatheredBody(4)
    body.add(b"abc")
    with pytest.raises(ProtocolError, match=r"3 \+ 0 bytes, 4 were announced"):
        body.whole(b"")
    with pytest.raises(ProtocolError, match="5 bytes, 4 were announced"):
        body.add(b"de")
    body.add(b"d")
    with pytest.raises(ProtocolError, match=r"4 \+ 1 bytes"):
        body.whole(b"e")

"""Headers by the standard library and by msgspec: what one writes the other reads, and neither falls over garbage."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.errors import ProtocolError
from stoker.protocol import data_messages as d
from stoker.protocol import messages as m
from stoker.protocol.structure import decode_header, encode_header, structured
from stoker.server import wire
from stoker.types import CallState, ErrorInfo, FunctionSpec

from .message_samples import ERROR, SAMPLES, SPEC

HOT = (m.Lease, m.Results, m.Items, m.Ack)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-(2**70), 2**70)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def strategy(hint: Any) -> st.SearchStrategy[Any]:
    """Return valid values of a field's type."""
    if hint is Any:
        return values
    plain = {str: texts, int: st.integers(-(2**63), 2**64 - 1), float: finite, bool: st.booleans()}.get(hint)
    if plain is not None:
        return plain
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{f.name: strategy(hints[f.name]) for f in fields(hint)})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list:
        return st.lists(strategy(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(texts, strategy(arguments[1]), max_size=3)
    assert origin is Union or type(hint).__name__ == "UnionType", hint
    return st.one_of([st.none() if one is type(None) else strategy(one) for one in arguments])


messages = st.one_of([strategy(cls) for cls in m.KINDS.values()])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(messages)
def test_each_side_reads_what_the_other_writes(message: Any) -> None:
    kind, header = encode_header(message)
    assert wire.decode(kind, header) == message
    assert decode_header(kind, header) == message
    written = b"".join(wire.encode(message))[16:]
    assert decode_header(kind, written) == message
    assert json.loads(written) == json.loads(header)


def both(kind: int, header: bytes) -> list[Any]:
    """Return what each side makes of a header; a refusal is None, anything but a `ProtocolError` escapes."""
    made: list[Any] = []
    for read in (decode_header, wire.decode):
        try:
            made.append(read(kind, header))
        except ProtocolError:
            made.append(None)
    return made


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_headers_are_refused_or_read_alike(sample: Any, data: st.DataObject) -> None:
    kind, header = encode_header(sample)
    damaged = bytearray(header)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        how = data.draw(st.sampled_from(("replace", "insert", "delete", "cut")))
        piece = data.draw(st.sampled_from((b'"', b"{", b"]", b"null", b"1.5", b"-", b"\\ud800", b"\xff", b"\0", b",")))
        if how == "delete":
            del damaged[at]
        elif how == "cut":
            del damaged[at:]
        else:
            damaged[at : at + (how == "replace")] = piece
        damaged = damaged or bytearray(b"{")
    ours, theirs = both(kind, bytes(damaged))
    if ours is not None and theirs is not None and not isinstance(sample, HOT):
        assert ours == theirs


@given(st.integers(0, 255), st.binary(max_size=40) | values.map(lambda value: json.dumps(value).encode()))
def test_garbage_raises_nothing_but_protocol_errors(kind: int, header: bytes) -> None:
    both(kind, header)


@pytest.mark.parametrize("header", [b"[]", b"3", b"null", b'"x"', b"{}", b"", b"{", b"\xff"])
@pytest.mark.parametrize("kind", sorted(m.KINDS))
def test_a_header_that_is_no_such_message_is_refused_by_both(kind: int, header: bytes) -> None:
    if header == b"{}" and m.KINDS[kind] in {m.Drain, m.ChannelAnswer, d.WatchDrops}:  # nothing need be said
        assert both(kind, header) == [m.KINDS[kind](), m.KINDS[kind]()]
    else:
        assert both(kind, header) == [None, None]


def test_deep_and_long_documents_are_refused() -> None:
    deep = b'{"id":1,"verb":"x","params":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    assert both(22, deep) == [None, None]
    assert both(22, b'{"id":' + b"1" * 5000 + b',"verb":"x"}') == [None, None]


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(number: bytes) -> None:
    assert both(22, b'{"id":1,"verb":"x","params":{"a":' + number + b"}}") == [None, None]


@pytest.mark.parametrize(
    "document",
    [
        {"seq": "1", "more": 1},
        {"id": 1, "verb": 2},
        {"id": True, "verb": "x"},
        {"id": 1.0, "verb": "x"},
        {"id": 1, "verb": "x", "params": []},
        {"id": 1, "verb": "x", "params": None},
        {"verb": "x"},
    ],
)
def test_fields_of_another_type_are_refused(document: dict[str, Any]) -> None:
    assert both(m.KIND_OF[m.Request], json.dumps(document).encode()) == [None, None]


def test_the_error_names_what_is_wrong() -> None:
    with pytest.raises(ProtocolError, match="A Request came without its field 'verb'"):
        structured(m.Request, {"id": 1})
    with pytest.raises(ProtocolError, match="A Request has no field 'verv'"):
        structured(m.Request, {"id": 1, "verv": "x"})
    with pytest.raises(ProtocolError, match="There is no message of kind 99"):
        decode_header(99, b"{}")
    with pytest.raises(ProtocolError, match="There is no message of kind 99"):
        wire.decode(99, b"{}")


def test_a_text_with_half_a_surrogate_pair_arrives_readable() -> None:
    """An exception that names a file whose name is no UTF-8 must not cost its worker the connection."""
    error = replace(ERROR, message="No such file: 'caf\udce9' 🔥 \\ud800", fields={"pa\udce9th": ["\udce9"]})
    kind, header = encode_header(m.Results(1, ["c"], [1], [0], [1], [0.0], {}, {"0": error}))
    (came,) = wire.decode(kind, header).errors.values()
    assert came.message == "No such file: 'caf\ufffd' 🔥 \\ud800"
    assert came.fields == {"pa\ufffdth": ["\ufffd"]}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_arrives_as_null(number: float) -> None:
    error = ErrorInfo("Overloaded", "x", fields={"retry_after": number, "spec": [SPEC]})
    kind, header = encode_header(m.Reply(1, {"n": number, "ok": 1.5}, error))
    came = wire.decode(kind, header)
    assert came.result == {"n": None, "ok": 1.5}
    assert came.error.fields["retry_after"] is None
    assert structured(FunctionSpec, came.error.fields["spec"][0]) == SPEC


def test_enumerations_and_optional_fields_are_checked() -> None:
    assert structured(FunctionSpec, json.loads(json.dumps(_plain(SPEC)))) == SPEC
    with pytest.raises(ProtocolError, match="is none of"):
        structured(m.Submit, {"function": "f", "ids": [], "sizes": [], "deadline": "soon"})
    assert structured(m.Submit, {"function": "f", "ids": [], "sizes": [], "deadline": 3}).deadline == 3
    assert CallState("queued") is CallState.QUEUED


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return [_plain(item) for item in value] if isinstance(value, list) else value

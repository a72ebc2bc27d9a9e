"""What is kept, for people, of an answer that says what is wrong with a request."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from stoker.protocol.web_calls import WebAnswer, encode_answer, split_answer
from stoker.server import inspection
from stoker.server.web_records import REASON_CHARACTERS, WebRecord, WebRecords, reason_of
from stoker.store.base import CallRecord
from stoker.web.answers import error_answer
from stoker.web.conversion import converter
from stoker.web.scalars import Invalid
from tests.store.rows import accepted, settled


def refusal(message: str, *, kind: str = "ValidationError") -> bytes:
    return bytes(split_answer(error_answer(422, kind, message, call_id="h1", path="$.x"))[1])


def test_what_a_worker_finds_wrong_is_kept_with_its_path() -> None:
    records = WebRecords()
    records.answered("h1", "POST", b"/shop/move", 422, refusal('$.x: expected a number, not the text "hunter2"'))
    records.answered("h2", "POST", b"/shop/move", 200)
    first, second = records.get("h1"), records.get("h2")
    assert first is not None and second is not None
    assert first.row()["reason"] == "ValidationError: $.x: expected a number"
    assert second.row()["reason"] == ""


def test_the_call_of_a_request_is_the_latest_with_its_id() -> None:
    records = WebRecords()
    for call_id, request_id in (("h1", b"order-7"), ("h2", b"other"), ("h3", b"order-7"), ("h4", b"")):
        records.answered(call_id, "POST", b"/shop/move", 200, request_id=request_id)
    assert (records.call_of("order-7"), records.call_of("other")) == ("h3", "h2")
    assert [records.call_of(one) for one in ("", "order", "h1")] == ["", "", ""]
    assert (records.request_of("h1"), records.request_of("h4"), records.request_of("h5")) == ("order-7", "", "")


@pytest.mark.parametrize(
    "body",
    [
        refusal("the card 4111 is not ours", kind="UnknownCard"),
        json.dumps({"error": {"type": "ValidationError", "message": "x" * 5000}}).encode(),
        b'{"error":"a text"}',
        b'{"error":{"type":["ValidationError"],"message":"x"}}',
        b'{"error":{"type":"ValidationError"}}',
        b'{"error":{"type":"ValidationError","message":"cut',
        b"<h1>Not found</h1>",
        b"",
    ],
)
def test_of_answers_that_a_function_made_nothing_is_kept(body: bytes) -> None:
    assert reason_of(body) == ""


@dataclass
class Login:
    name: str
    pin: int
    expires: datetime | None = None


@pytest.mark.parametrize(
    ("came", "said"),
    [
        ({"name": 41118, "pin": 1}, "$.name: expected a text"),
        ({"name": "a", "pin": "hunter41118"}, "$.pin: expected a whole number"),
        ({"name": "a", "pin": ", not 41118 (and 9 more)"}, "$.pin: expected a whole number"),
        ({"name": ["41118"], "pin": "41118"}, "$.name: expected a text (and 1 more)"),
        ({"name": "a", "pin": 1, "expires": "41118"}, "$.expires: expected one of datetime, null"),
        ("41118", "$: expected an object"),
    ],
)
def test_the_value_that_came_is_told_to_its_sender_alone(came: Any, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        converter(Login)(came, "$")
    assert reason_of(refusal(str(caught.value))) == f"ValidationError: {said}"


def test_names_that_a_client_made_up_do_nothing_to_a_terminal() -> None:
    assert reason_of(refusal("$.\x1b[2J\n: there is no field")) == "ValidationError: $.�[2J�: there is no field"
    assert len(reason_of(refusal("$." + "x" * 1000))) == REASON_CHARACTERS + 1


def test_the_reason_of_a_call_that_is_stored_is_read_from_its_answer() -> None:
    payload = error_answer(400, "BadRequest", "The body is no JSON.", call_id="h1")
    found = WebRecord.read("POST /shop/move", 400, payload)
    assert found is not None and found.reason == "BadRequest: The body is no JSON."
    users = encode_answer(WebAnswer(200, [], refusal("not looked at")))
    assert WebRecord.read("POST /shop/move", 200, users) == WebRecord("POST", "/shop/move", 200)
    assert WebRecord.read("POST /shop/move", 422, b"no answer") == WebRecord("POST", "/shop/move", 422)
    assert WebRecord.read("", 0) is None


def test_a_long_list_reads_few_answers_of_the_store() -> None:
    payload = error_answer(400, "BadRequest", "The body is no JSON.", call_id="h1")
    asked: list[str] = []

    def record(seq: int, payload: bytes = b"") -> CallRecord:
        return CallRecord(
            accepted(seq, request="POST /shop/move"),
            0,
            0,
            settled(seq, status=400 if seq % 2 else 200, payload=payload),
        )

    def one(call_id: str) -> CallRecord:
        asked.append(call_id)
        return record(int(call_id.rpartition(".")[2]), payload)

    store = SimpleNamespace(
        calls=lambda **_: [record(seq) for seq in range(4 * inspection.REASONS_MAX)], call=one, function=lambda _: None
    )
    server: Any = SimpleNamespace(
        store=store,
        wall_offset=0.0,
        plane=SimpleNamespace(state=SimpleNamespace(calls={})),
        records=SimpleNamespace(newest=list),
        functions=SimpleNamespace(specs={}),
    )
    rows = asyncio.run(inspection.call_rows(server, app="", function="", state="", limit=1000))
    told = [row["id"] for row in rows if row["http"]["reason"] == "BadRequest: The body is no JSON."]
    newest = [row["id"] for row in rows if row["http"]["status"] == 400][: inspection.REASONS_MAX]
    assert told == newest == asked


def test_an_answer_that_nobody_can_read_has_no_reason() -> None:
    records = WebRecords()
    records.answered("c", "POST", b"/a/f", 400, b'{"error":' + b"[" * 4000)
    found = records.get("c")
    assert found is not None and found.reason == ""

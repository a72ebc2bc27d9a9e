"""What a callback says: how a call has ended, as its record has it, and its answer where that is small and JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from stoker.core.calls import Result, Segment
from stoker.errors import ProtocolError
from stoker.protocol.web_calls import decode_answer
from stoker.server.gateway.problems import problem_of
from stoker.server.payloads import PayloadFiles
from stoker.server.watching import stored_delivery
from stoker.store.base import CallRecord
from stoker.types import CallState, FunctionSpec, Outcome

RESULT_BYTES = 256 << 10  # a bigger answer is fetched by who is told


def message_of(record: CallRecord, spec: FunctionSpec | None, files: PayloadFiles) -> bytes:
    """Return the body of a settled call's callback; in a thread, as files are read."""
    call, settled = record.call, record.settled
    assert settled is not None
    label = spec.label if spec is not None else call.function
    data: dict[str, Any] = {
        "call_id": call.id,
        "function": f"{label}.{call.method}" if call.method else label,
        "state": settled.state.value,
        "created": call.created,
        "finished": settled.finished,
        "attempts": settled.attempts,
        "result_path": f"/v1/calls/{call.id}/result",
    }
    kind = settled.state.value
    if not record.expired:
        files.bring([settled.payload_blob])
        status, told = _answer(stored_delivery(call.id, record, files.spill).result, files)
        data |= {"status": status, **told}
        if status >= 400 and settled.state is not CallState.CANCELLED:
            kind = "failed"
    at = datetime.fromtimestamp(settled.finished, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return msgspec.json.encode({"type": f"call.{kind}", "timestamp": at, "data": data})


def _answer(result: Result, files: PayloadFiles) -> tuple[int, dict[str, Any]]:
    """Return the status that the call is answered with, and what of the answer is told here."""
    if result.outcome is not Outcome.VALUE:
        problem = problem_of(result.outcome, result.error)
        return problem.status, {"error": {"type": problem.kind, "message": str(problem)}}
    payload = result.payload
    try:
        found = decode_answer(_head_of(payload, files) if isinstance(payload, Segment) else payload)
    except (ProtocolError, OSError):
        return 500, {}
    is_json = ("content-type", "application/json") in found.headers
    if not is_json or (isinstance(payload, Segment) and payload.size > RESULT_BYTES) or len(found.body) > RESULT_BYTES:
        return found.status, {}
    body = bytes(found.body)
    if found.status < 400:
        return found.status, {"result": msgspec.Raw(body)}
    said = msgspec.json.decode(body)
    return found.status, {"error": said["error"]} if isinstance(said, dict) and "error" in said else {}


def _head_of(payload: Segment, files: PayloadFiles) -> bytes:
    """Return what lies at the beginning of a file: all of it where it is small."""
    for directory in (files.segments, files.spill):
        path: Path = directory / payload.name
        if path.exists():
            with path.open("rb") as file:
                return file.read(2 * RESULT_BYTES)
    raise FileNotFoundError(payload.name)

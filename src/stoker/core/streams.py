"""What generators yielded, on its way to the reader: each item once, whichever attempt it came from."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.core import commands as c
from stoker.core.calls import Call, Payload
from stoker.core.state import State


def pass_on(st: State, call: Call, attempt: int, first: int, payloads: Sequence[Payload]) -> None:
    """Pass on items of a call's attempt, numbered from ``first``, without those that its reader was sent before."""
    end = first + len(payloads)
    had = call.yielded[1] if call.yielded is not None and call.yielded[0] == attempt else 0
    # What this attempt has sent before lies in the very files that its reader may still have to open.
    again = max(0, min(len(payloads), had - first))
    seen = max(0, min(len(payloads), call.items - first))
    for payload in payloads[again:seen]:
        st.discard(payload)
    call.yielded = attempt, max(had, end)
    fresh = payloads[max(seen, again) :]
    if fresh:
        call.items = end
        st.emit(c.DeliverItems(call.client, call.id, attempt, end - len(fresh), fresh))

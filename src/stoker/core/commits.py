"""What becomes of a write: it is there, it is tried again, or what is wrong with it is found and said.

A store that can write nothing (its disk is full) is waited for. Rows that it refuses are halved until the one that is
at fault is alone: the others are written, and the call that cannot be is refused, or fails, by itself.
"""

from __future__ import annotations

from functools import partial

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core import gang_attempts, recovery, settling, withheld
from stoker.core.calls import Call, Result, Settlement, stoker_error
from stoker.core.state import State
from stoker.types import CallState, Outcome

RETRY_MAX_SECONDS = 10.0  # there may be room again at any time, and results wait for it
REFUSALS_MAX = 3  # of a single settled call, until it is taken for one that cannot be written
REASON_MAX_CHARS = 500  # of the store's words, of which it may be the length that it refused


def persisted(st: State, event: e.Persisted) -> None:
    for token in event.tokens:
        if token in st.withheld:
            withheld.written(st, token)
        elif token in st.gangs_withheld:
            gang_attempts.written(st, token)
        elif token in st.accepting:
            _accepted(st, st.accepting.pop(token))
        elif token in st.settling:
            st.refusals.pop(token, None)
            settling.committed(st, st.settling.pop(token))


def _accepted(st: State, calls: list[Call]) -> None:
    told: dict[str, list[str]] = {}
    for call in calls:
        call.pool.accepting -= 1
        told.setdefault(call.client, []).append(call.id)
        if call.state is CallState.ACCEPTING:
            st.move(call, CallState.QUEUED)
            if call.deadline is not None and st.now >= call.deadline:
                settling.expire(st, call)  # it passed meanwhile, when nothing could be done about it
            elif not (st.held and recovery.adopt(st, call)):
                call.pool.queue.push(call)
                st.touch(call.pool)
    for client, ids in told.items():
        st.emit(c.TellAccepted(client, ids))


def persist_failed(st: State, event: e.PersistFailed) -> None:
    """Refuse what could not be written; keep what had ended, and try to write it down again."""
    for token in event.tokens:
        if token in st.withheld:
            withheld.refused(st, token)
        elif token in st.gangs_withheld:
            gang_attempts.refused(st, token)
        elif token in st.accepting:
            _not_accepted(st, st.accepting.pop(token), event)
        elif token in st.settling:
            _not_settled(st, token, st.settling.pop(token), event)


def _not_accepted(st: State, calls: list[Call], event: e.PersistFailed) -> None:
    for call in calls:
        call.pool.accepting -= call.state.settled
    # One that was cancelled meanwhile needs no row: its client is told.
    calls = [call for call in calls if not call.state.settled]
    if event.of_rows and len(calls) > 1:
        middle = len(calls) // 2
        for half in (calls[:middle], calls[middle:]):
            token = st.token()
            st.accepting[token] = half
            st.writes.append(c.PersistAccepted(token, half))
        return
    for call in calls:
        call.pool.accepting -= 1
        del st.calls[call.id]
        st.discard(call.payload)
        message = f"The call could not be written down, so it was not accepted: {event.reason}"
        st.emit(c.TellRefused(call.client, [call.id], stoker_error("StoreError", message), call.pool.key))


def _not_settled(st: State, token: int, settlements: list[Settlement], event: e.PersistFailed) -> None:
    if event.of_rows and len(settlements) > 1:
        middle = len(settlements) // 2
        _write(st, token, settlements[:middle])
        _write(st, st.token(), settlements[middle:], beside=token)
        return
    refusals = st.refusals[token] = st.refusals.get(token, 0) + 1
    if event.of_rows and refusals >= REFUSALS_MAX:
        settlements = [_unwritable(st, settlement, event.reason) for settlement in settlements]
    wait = min(RETRY_MAX_SECONDS, st.limits.persist_retry * 2.0 ** min(refusals - 1, 30))
    st.settling[token] = settlements
    st.at(st.now + wait, partial(_write, st, token, settlements))


def _write(st: State, token: int, settlements: list[Settlement], *, beside: int = 0) -> None:
    """Write down what had ended, under the same token: workers are owed the acknowledgement of that one."""
    st.settling[token] = settlements
    st.writes.append(c.PersistSettled(token, settlements, beside))


def _unwritable(st: State, settlement: Settlement, reason: str) -> Settlement:
    """Return the end of a call whose result the store will not take: it says so."""
    call = settlement.call
    st.discard(settlement.result.payload)
    message = (
        f"Call {call.id} of {call.label} ended ({settlement.state.value}), but the store refused its result "
        f"{REFUSALS_MAX} times: {reason[:REASON_MAX_CHARS]}"
    )
    fields = {"call_id": call.id, "function": call.label}
    result = Result(Outcome.ERROR, error=stoker_error("StoreError", message, fields))
    call.state = CallState.FAILED
    return Settlement(call, CallState.FAILED, result, settlement.finished, [])

"""A program whose persistent server goes away does not wait for it at its end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import stoker
from stoker.client import session as sessions
from stoker.client.calls import Pending, Route, Slot
from stoker.client.goodbye import undelivered
from tests.faults.running import PersistentServer, Program
from tests.waiting import wait_until

SERVER_GOES = Path(__file__).parent / "programs" / "server_goes.py"


@pytest.mark.chaos
@pytest.mark.timeout(90)
@pytest.mark.parametrize(("number", "cancels"), [(signal.SIGTERM, False), (signal.SIGKILL, True)])
def test_a_server_that_is_gone_is_not_waited_for(
    number: signal.Signals, cancels: bool, server: PersistentServer, tmp_path: Path
) -> None:
    """The program waits an hour for a server that is there, so it ends only because it is not."""
    gone = tmp_path / "gone"
    program = Program(SERVER_GOES, str(gone), *["cancel"] * cancels)
    wait_until(lambda: "called" in program.output, timeout=30, message="it has called")
    assert server.process is not None
    server.process.send_signal(number)
    server.process.wait(30)
    gone.touch()
    assert program.wait(30) == 0, program.output
    assert ("went away and was not back" in program.output) == cancels
    assert ("1 spawned call may not have been cancelled" in program.output) == cancels
    if number == signal.SIGKILL:
        server.start()
        wait_until(_agent_is_there, timeout=30)  # or it would not hear that the server ends for good
        sessions.close()


def _agent_is_there() -> bool:
    try:
        sessions.current().request("inventory")
    except stoker.ConnectionFailed:
        return False
    return True


def test_what_was_not_delivered_is_counted_by_kind() -> None:
    attached, detached = Route("f", "app.f"), Route("f", "app.f", detached=True)

    def call(route: Route, *, accepted: bool = False, cancelled: str = "") -> Pending:
        made = Pending("c", route, Slot())
        made.accepted, made.cancelled = accepted, cancelled
        return made

    kept = call(detached, accepted=True)  # it goes on, as it was meant to
    assert undelivered([call(attached), call(attached, cancelled="user"), kept], output=False) == ""
    unsure, cancelled = call(detached), call(detached, accepted=True, cancelled="user")
    assert undelivered([kept, unsure, unsure, cancelled], output=True) == (
        "2 spawned calls may not have been accepted. 1 spawned call may not have been cancelled. "
        "Output of calls that ended may be missing here: `stoker logs` has it."
    )

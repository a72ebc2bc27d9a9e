"""A server's start, where a signal or somebody else comes in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from stoker.errors import StoreError
from stoker.server import serving
from stoker.server.config import END_SIGNALS, ServerConfig
from stoker.testing.seams import FakeEngine
from tests import leftovers
from tests.waiting import wait_until


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", END_SIGNALS)
def test_a_signal_as_soon_as_the_agent_is_forked_ends_both_in_order(number: int, tmp_path: Path) -> None:
    home = {"STOKER_HOME": tmp_path / "home", "STOKER_RUNTIME_DIR": tmp_path / "run"}
    environment = {**os.environ, **{name: str(place) for name, place in home.items()}, "STOKER_HTTP": "off"}
    command = [sys.executable, "-m", "stoker.server", "--persistent"]
    with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as server:
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
        agent = int(wait_until(children.read_text, timeout=20, message="the agent is forked"))
        os.killpg(server.pid, number)
        try:
            assert server.wait(30) == 0
            wait_until(lambda: agent not in leftovers.processes_of(tmp_path / "run"), message="the agent has ended")
        finally:
            for pid in leftovers.processes_of(tmp_path / "run"):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Have the signals of this process as they are now again after the test."""
    handlers = [signal.getsignal(number) for number in END_SIGNALS]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    yield
    for number, handler in zip(END_SIGNALS, handlers, strict=True):
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.mark.usefixtures("own_signals")
def test_a_standby_that_waits_again_is_ended_by_a_signal_and_its_agent_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(config: ServerConfig, *, standby: Callable[[str], None]) -> None:
        standby("another server")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)

    class Engine(FakeEngine):
        ended = False

        async def shut_down(self, *, grace: float = 5.0) -> None:
            self.ended = True

    engine = Engine()
    config = ServerConfig("persistent", tmp_path, tmp_path, tmp_path / "segments", retention=1.0)
    monkeypatch.setattr(serving, "open_store", opened)
    with pytest.raises(StoreError, match=r"told to end \(SIGTERM\) while it waited"):
        uvloop.run(serving._serve(replace(config, standby=True), engine, 0, lambda answer: None))
    assert engine.ended

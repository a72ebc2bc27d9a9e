"""Single calls that go straight to a worker: real processes, and what happens to them on the way."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import stoker
from stoker.client import channel as channels
from stoker.client import session as sessions
from tests.waiting import wait_until

app = stoker.App("channels")


@app.function
def double(x: int) -> int:
    if x < 0:
        raise ValueError(f"{x} is negative")
    return 2 * x


@app.function
def slow_if(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.function
def pid_of(kill: bool) -> int:
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@app.function
def sized(n: int) -> bytes:
    return b"x" * n


@app.function
def calls_others(n: int) -> int:
    return sum(double.remote(i) for i in range(n))


@app.function(timeout=0.3)
def in_time(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@app.function
def count_runs(path: str, seconds: float) -> None:
    with Path(path).open("a") as file:
        file.write("x")
    time.sleep(seconds)


@app.cls
class Doubler:
    @stoker.method()
    def double(self, x: int) -> int:
        return 2 * x

    @stoker.method()
    def triple(self, x: int) -> int:
        return 3 * x


@pytest.fixture(autouse=True)
def running(runtime_dir: Path) -> Iterator[None]:
    with app.run():
        yield


def opened() -> dict[str, channels.Channel]:
    return sessions.current().channels._open


def lend(function: stoker.Function[..., object], *values: object) -> channels.Channel:
    """Call a function until its worker is lent."""

    def call() -> channels.Channel | None:
        function.remote(*values)
        return next(iter(opened().values()), None)

    found = wait_until(call, timeout=20, message="a channel")
    assert found is not None
    return found


def test_a_row_of_calls_goes_by_a_channel() -> None:
    def goes_by_it() -> bool:
        channel = lend(double, 1)
        before = channel.calls
        assert [double.remote(i) for i in range(100)] == [2 * i for i in range(100)]
        return channel.calls >= before + 100  # a call that this machine was too busy for ends a channel

    wait_until(goes_by_it, timeout=30, message="a hundred calls by one channel")


def test_the_methods_of_a_class_share_a_channel() -> None:
    doubler = Doubler()

    def goes_by_it() -> bool:
        channel = lend(doubler.double, 1)
        before = channel.calls
        assert [doubler.double.remote(i) for i in range(10)] == [2 * i for i in range(10)]
        assert [doubler.triple.remote(i) for i in range(10)] == [3 * i for i in range(10)]
        return channel.calls >= before + 20

    wait_until(goes_by_it, timeout=30, message="both methods by one channel")


def test_an_error_comes_back_as_itself() -> None:
    def stays() -> bool:
        channel = lend(double, 1)
        with pytest.raises(ValueError, match="-1 is negative"):
            double.remote(-1)
        assert double.remote(2) == 4
        return channel in opened().values()  # one on which a busy machine was too slow does not

    wait_until(stays, timeout=30, message="a channel that outlives an error")


def test_a_call_that_takes_long_is_run_once_and_ends_the_channel(tmp_path: Path) -> None:
    file = tmp_path / "marks"
    lend(count_runs, "/dev/null", 0.0)
    count_runs.remote(str(file), 0.3)
    assert file.read_text() == "x"
    assert not opened()


def test_a_worker_that_is_killed_under_a_call_is_replaced() -> None:
    lend(pid_of, False)
    with pytest.raises(stoker.WorkerLost, match="signal 9"):
        pid_of.remote(True)
    assert isinstance(pid_of.remote(False), int)


def test_a_worker_that_is_killed_between_two_calls_is_not_noticed() -> None:
    lend(pid_of, False)
    pid = pid_of.remote(False)
    os.kill(pid, signal.SIGKILL)
    assert pid_of.remote(False) != pid


def test_big_results_come_by_the_server_and_big_inputs_go_there() -> None:
    lend(sized, 10)
    assert len(sized.remote(1 << 20)) == 1 << 20
    lend(double, 1)
    assert double.remote(1 << (8 << 17)) == 2 << (8 << 17)


def test_a_timeout_holds_on_a_channel() -> None:
    lend(in_time, 0.0)
    with pytest.raises(stoker.CallTimeout):
        in_time.remote(30.0)


def test_threads_share_what_there_is() -> None:
    lend(double, 1)
    wrong: list[int] = []

    def many(start: int) -> None:
        wrong.extend(i for i in range(start, start + 200) if double.remote(i) != 2 * i)

    threads = [threading.Thread(target=many, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_calls_of_a_worker_use_channels_too() -> None:
    assert [calls_others.remote(n) for n in (300, 300)] == [89_700, 89_700]


def test_a_map_takes_the_worker_back() -> None:
    lend(double, 1)
    assert list(double.map(range(500))) == [2 * i for i in range(500)]
    assert double.remote(3) == 6


def test_an_interrupted_call_is_cancelled(tmp_path: Path) -> None:
    lend(slow_if, 0.0)
    timer = threading.Timer(0.2, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        slow_if.remote(60.0)
    assert slow_if.remote(0.0) == 0.0  # the worker is free again, as nothing else was
    assert time.monotonic() - began < 8


@app.function
def speaks(word: str) -> None:
    print(word)


def test_what_a_call_prints_is_shown_before_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    lend(speaks, "on the way")
    for i in range(5):
        speaks.remote(f"word {i}")
        assert f"word {i}" in capsys.readouterr().out


def test_what_went_by_a_channel_is_on_record() -> None:
    lend(double, 1)
    for i in range(60):
        double.remote(i)
    session = sessions.current()

    def told() -> bool:
        rows: list[dict[str, object]] = session.request("calls", {"limit": 1000})
        return sum(row["function"] == "channels.double" for row in rows) >= 50

    wait_until(told, message="the server to hear of the calls")


@app.function
def fails_at_length(n: int) -> int:
    if n:
        raise ValueError("ж" * n)
    return n


def test_an_error_that_is_too_long_for_the_channel_comes_by_the_server() -> None:
    lend(fails_at_length, 0)
    with pytest.raises(ValueError, match="жжж"):
        fails_at_length.remote(60_000)
    assert fails_at_length.remote(0) == 0


def test_a_default_timeout_of_the_program_changes_nothing(tmp_path: Path) -> None:
    socket.setdefaulttimeout(0.1)
    try:
        lend(count_runs, "/dev/null", 0.0)
        count_runs.remote(str(tmp_path / "marks"), 0.5)
    finally:
        socket.setdefaulttimeout(None)
    assert (tmp_path / "marks").read_text() == "x"


def test_signals_that_come_all_the_time_do_not_hold_up_the_hand_over() -> None:
    lend(slow_if, 0.0)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    try:
        slow_if.remote(0.5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert not opened()  # it was handed over


def test_a_channel_that_was_closed_while_nobody_called_harms_nobody() -> None:
    """Even a program that dies of writing to a closed pipe."""
    channel = lend(double, 1)
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        wait_until(channel.is_dead, message="the server to take the worker back")
        assert double.remote(4) == 8
    finally:
        signal.signal(signal.SIGPIPE, before)


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_calls_leave_nothing_open() -> None:
    """Whenever the interrupt comes: the calls are forgotten, and later ones go by a channel again."""
    lend(double, 1)
    session = sessions.current()
    for i in range(60):
        timer = threading.Timer(0.0005 * (i % 7), signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
        try:
            timer.start()
            for j in range(100):
                double.remote(j)
            timer.join()  # here, so that an interrupt which comes late is taken too
        except KeyboardInterrupt:
            pass
        finally:
            timer.join()
    wait_until(lambda: not len(session.connection.calls), message="no call to be open")
    # One that did not last is asked for again after ever more calls in a row, some thousand at last: a busy machine
    # makes pauses between them, and would never come to that.
    session.channels._uses.clear()
    wait_until(lambda: [double.remote(1) for _ in range(500)] and opened(), timeout=60, message="a channel again")

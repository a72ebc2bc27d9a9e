from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.protocol.messages import Drain
from stoker.runner.output import CallStream, LogFile
from stoker.transport.current import CurrentCall, enter_call
from tests.runner.harness import Stage, eventually


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[Path, LogFile]]:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    yield path, LogFile(fd)
    os.close(fd)
    enter_call(None)


def test_lines_belong_to_the_call_that_printed_them(log: tuple[Path, LogFile]) -> None:
    path, file = log
    out, err = CallStream(1, "<stdout>", log=file), CallStream(2, "<stderr>", log=file)
    print("before", file=out)
    enter_call(CurrentCall("c-1", 1))
    print("a", 1, file=out)
    print("two\nlines", file=err)
    out.buffer.write(b"bytes\xff\n")
    out.write("odd \ud800 \x1e\n")
    assert path.read_bytes() == (
        b"\x1e\x1fo\x1fbefore\n\x1ec-1\x1fo\x1fa 1\n\x1ec-1\x1fe\x1ftwo\n\x1ec-1\x1fe\x1flines\n"
        b"\x1ec-1\x1fo\x1fbytes\xff\n\x1ec-1\x1fo\x1fodd \\ud800 \xe2\x90\x9e\n"
    )


def test_partial_lines_are_shown_rarely_and_at_the_end(log: tuple[Path, LogFile]) -> None:
    path, file = log
    out = CallStream(1, "<stdout>", log=file)
    enter_call(CurrentCall("c-1", 1))
    for i in range(100):
        print(f"\r{i}%", end="", file=out, flush=True)
    assert path.read_bytes().count(b"\x1e") <= 2
    out.end_call("c-1")
    text = path.read_bytes()
    assert text.startswith(b"\x1ec-1\x1fO\x1f\r0%\n")
    assert text.endswith(b"99%\n")
    assert b"\x1fo\x1f" in text
    assert not out.has_open


def test_partial_lines_are_due_after_a_while(log: tuple[Path, LogFile]) -> None:
    path, file = log
    out = CallStream(1, "<stdout>", log=file)
    wanted: list[float] = []
    out.rebind(file, wanted.append)
    out.write("wait")
    assert path.read_bytes() == b""
    assert out.show_due(wanted[0] - 0.01) == wanted[0]
    assert out.show_due(wanted[0]) is None
    assert path.read_bytes() == b"\x1e\x1fO\x1fwait\n"


def test_a_stream_is_what_libraries_expect(log: tuple[Path, LogFile]) -> None:
    _, file = log
    out = CallStream(1, "<stdout>", log=file)
    assert isinstance(out, io.TextIOBase)
    assert (out.fileno(), out.isatty(), out.encoding, out.errors) == (1, False, "utf-8", "backslashreplace")
    out.close()
    assert not out.closed
    assert out.write("x") == 1
    out.reconfigure(line_buffering=True)
    with pytest.raises(TypeError):
        out.write(b"x")  # type: ignore[arg-type]
    out.flush()  # else it is written when it is collected, into whatever has its descriptor's number by then


def test_much_text_is_not_kept(log: tuple[Path, LogFile]) -> None:
    path, file = log
    out = CallStream(1, "<stdout>", log=file)
    out.write("x" * (5 << 20))
    assert path.stat().st_size >= 5 << 20
    out.write("\n")
    assert not out._partial


def test_threads_do_not_mix_lines(log: tuple[Path, LogFile]) -> None:
    path, file = log
    out = CallStream(1, "<stdout>", log=file)

    def work(name: str) -> None:
        enter_call(CurrentCall(name, 1))
        for i in range(200):
            print("line", i, file=out)

    threads = [threading.Thread(target=work, args=(f"c-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_text().split("\n")
    for i in range(4):
        assert [line for line in lines if f"c-{i}" in line] == [f"\x1ec-{i}\x1fo\x1fline {j}" for j in range(200)]


def test_everything_that_a_worker_prints_reaches_its_log(stage: Stage) -> None:
    worker = stage.worker(
        """
        import logging, os, subprocess, sys, time
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        print("at import")
        def f():
            logging.info("logged")
            os.write(1, b"native\\n")
            subprocess.run(["echo", "child"], stdout=sys.stdout)
            sys.stdout.write("wait for it")
            while not os.path.exists("go"):
                time.sleep(0.001)
            print(", there")
            sys.__stdout__.write("original\\n"); sys.__stdout__.flush()
        """
    )
    worker.call("c-1")
    eventually(lambda: ("c-1", "O", "wait for it") in stage.records())
    (stage.directory / "go").touch()
    worker.result("c-1")
    assert ("c-1", "o", ", there") in stage.records()
    assert ("c-1", "e", "logged") in stage.records()
    raw = stage.log.read_bytes()
    assert {b"native", b"child", b"original"} <= set(raw.split(b"\n"))
    assert b"at import" not in raw
    assert b"at import" in (stage.directory / "zygote.log").read_bytes()
    worker.control.send(Drain())
    assert stage.agent.exited().status == 0


def test_a_silent_first_attempt_is_sampled(log: tuple[Path, LogFile], monkeypatch: pytest.MonkeyPatch) -> None:
    from stoker.runner import sampling
    from stoker.runner.attempts import Attempt
    from stoker.runner.output import Output

    path, file = log
    monkeypatch.setattr("time.process_time", lambda: 1.0)
    output = Output()
    output.log.close()
    output.log = file
    sampler = sampling.Sampler(output)
    attempt, later = (Attempt(f"c-{i}", 1, memoryview(b""), None, 0) for i in (1, 2))
    due = sampler.begin(attempt.key, 100.0)
    assert sampler.check(due, {later.key: later}) is None and not path.read_bytes()  # the first one has ended
    due = sampler.begin(attempt.key, 100.0)
    assert sampler.check(due - 1, {attempt.key: attempt}) == due
    assert sampler.check(due, {attempt.key: attempt}) is None
    assert b"no CPU for 10 s" in path.read_bytes()
    assert sys._getframe().f_code.co_name.encode() in path.read_bytes()


def test_what_is_written_is_stamped_once_a_millisecond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("stoker.runner.output.time.time", lambda: now)
    path = tmp_path / "stamped.log"
    file = LogFile(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stamps=True)
    out = CallStream(1, "<stdout>", log=file)
    out.write("one\n")
    out.write("two\n")
    now = 1000.001
    out.write("three\n")
    file.close()
    assert path.read_bytes() == (
        b"\x1e\x1ft\x1ff4240\n\x1e\x1fo\x1fone\n\x1e\x1fo\x1ftwo\n\x1e\x1ft\x1ff4241\n\x1e\x1fo\x1fthree\n"
    )

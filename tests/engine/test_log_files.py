from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stoker.engine.local import log_files
from stoker.engine.local.log_files import Header, LogQuery, append_note, create_log, last_lines, prune, read_logs

HEADER = Header("w1", "key", "shop.train", 1.0)


def query(**params: Any) -> LogQuery:
    return LogQuery.of(params)


def write(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_questions_by_worker_call_and_name(tmp_path: Path) -> None:
    for number, label in ((1, "shop.train"), (2, "shop.score"), (3, "other.train")):
        path = tmp_path / f"w{number}.log"
        create_log(path, Header(f"w{number}", f"key{number}", label, float(number)))
        write(path, f"\x1ec{number}\x1fo\x1ffrom {number}\n".encode())
    append_note(tmp_path / "w1.log", "a note")

    def texts(**params: Any) -> list[str]:
        return [line["text"] for line in read_logs(tmp_path, query(**params))]

    assert texts() == ["from 1", "from 2", "from 3", "a note"], "it was written now"
    assert texts(worker="w2") == texts(call="c2") == texts(functions=["key2"]) == ["from 2"]
    assert texts(app="shop") == ["from 1", "from 2", "a note"]
    assert texts(function="train") == ["from 1", "from 3", "a note"]
    assert texts(function="other.train") == ["from 3"]
    assert texts(worker="w1", tail=1) == ["a note"]
    assert texts(call="c9") == []


def test_lines_of_several_workers_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    for number in (1, 2):
        path = tmp_path / f"w{number}.log"
        create_log(path, Header(f"w{number}", "key", "shop.train", float(number)))
        for at in (2000, 4000):
            write(path, f"\x1e\x1ft\x1f{at + number:x}\n\x1ec\x1fo\x1f{at + number}\n".encode())
    lines = read_logs(tmp_path, query())
    assert [(line["text"], line["time"]) for line in lines] == [
        ("2001", 2.001), ("2002", 2.002), ("4001", 4.001), ("4002", 4.002)
    ]  # fmt: skip
    assert [line["text"] for line in read_logs(tmp_path, query(tail=3))] == ["2002", "4001", "4002"]
    assert [line["text"] for line in read_logs(tmp_path, query(since=2.002, until=4.001))] == ["2002", "4001"]


def test_the_last_lines_are_for_the_error_that_says_how_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "w1.log"
    assert last_lines(path) == []
    create_log(path, HEADER)
    assert last_lines(path) == []
    write(path, b"\x1ec1\x1fo\x1fwith a call\nnative, without an end")
    assert [(line.call, line.text) for line in last_lines(path)] == [
        ("c1", "with a call"),
        ("", "native, without an end"),
    ]
    write(path, b"\n" + b"".join(b"\x1ec1\x1fo\x1f%d\n" % number for number in range(5000)))
    assert [line.text for line in last_lines(path)] == [str(number) for number in range(4990, 5000)]


CRASH = """before
Fatal Python error: Segmentation fault

Thread 0x00007f7b352006c0 (most recent call first):
  File "/h/worker-path/0.1.0/stoker/runner/control.py", line 161 in _sleep
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f7b36fd9b80 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/h/bundles/ddf8/app.py", line 8 in deeper
""" + "".join(f'  File "/h/worker-path/0.1.0/stoker/runner/inline.py", line {line} in _run\n' for line in range(40))


def test_of_a_crash_the_calls_of_the_user_are_told(tmp_path: Path) -> None:
    path = tmp_path / "w1.log"
    create_log(path, HEADER)
    write(path, CRASH.encode() + b"Extension modules: numpy.core (total: 1)\n")
    assert [line.text for line in last_lines(path)] == [
        "before",
        "Fatal Python error: Segmentation fault",
        "Current thread 0x00007f7b36fd9b80 (most recent call first):",
        '  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at',
        '  File "/h/bundles/ddf8/app.py", line 8 in deeper',
    ]


def test_of_a_crash_deep_in_a_library_the_innermost_calls_are_told(tmp_path: Path) -> None:
    path = tmp_path / "w1.log"
    create_log(path, HEADER)
    frames = "".join(f'  File "/site-packages/deep.py", line {line} in f\n' for line in range(50))
    write(path, f"x\nFatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n{frames}".encode())
    found = [line.text for line in last_lines(path)]
    assert found[0] == "Fatal Python error: Aborted" and len(found) == 10 and found[-1].endswith("line 7 in f")


def test_nothing_is_said_to_be_gone_of_what_is_whole(tmp_path: Path) -> None:
    create_log(tmp_path / "w1.log", HEADER)
    for count in (10, 500, 5000):  # less than a block, than what is read at once, and more
        write(tmp_path / "w1.log", b"".join(b"line %d\n" % number for number in range(count)))
    texts = [line["text"] for line in read_logs(tmp_path, query(tail=10_000))]
    assert texts == [f"line {number}" for count in (10, 500, 5000) for number in range(count)]


def test_a_trimmed_file_keeps_its_header_and_its_newest(tmp_path: Path) -> None:
    path = tmp_path / "w1.log"
    create_log(path, HEADER)
    write(path, b"".join(b"line %07d\n" % number for number in range(100_000)))
    fd = os.open(path, os.O_RDWR)
    try:
        kept_from = log_files.trim(fd, os.fstat(fd).st_size, keep=64 << 10)
    finally:
        os.close(fd)
    write(path, b"one more\n")
    assert kept_from > 0 and path.stat().st_blocks * 512 < 128 << 10
    lines = read_logs(tmp_path, query(tail=100_000))
    assert lines[-1]["text"] == "one more" and lines[-2]["text"] == "line 0099999"
    assert lines[0]["stream"] == "stoker" and "older output are gone" in lines[0]["text"]
    assert lines[0]["label"] == "shop.train"


def test_old_files_go_first_and_living_ones_stay(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / f"w{number}.log"
        path.write_bytes(b"x" * (100 << 10))
        os.utime(path, (number + 1_000_000, number + 1_000_000))
    prune(tmp_path, alive={"w0"}, total=250 << 10, age=1e12)
    assert sorted(path.stem for path in tmp_path.glob("*.log")) == ["w0", "w2", "w3"]
    prune(tmp_path, alive={"w0"}, total=1 << 30, age=60.0)
    assert [path.stem for path in tmp_path.glob("*.log")] == ["w0"]

"""Workers' output as it lies on disk: one append-only file a worker, which any number of processes write.

What the lines mean stands in `log_lines`. The first one is ours: it says whose file it is.

A file is kept small by punching holes: what is old is given back to the disk while every offset stays as it was, so
writers and readers go on undisturbed. Its length therefore counts all that was ever written.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stoker.engine.local.crash_reports import shortened
from stoker.engine.local.log_lines import META, RECORD, STAMP, UNIT, Joiner, Line, parse_lines
from stoker.engine.local.processes import libc
from stoker.quantities import format_size

KEEP_BYTES = 64 << 20  # of one worker's output, the newest
TRIM_SLACK_BYTES = 16 << 20  # trimmed only when so much over, so that a hole is punched seldom
HEAD_BYTES = 4096  # one block at the start stays, with the line that says whose file it is
TOTAL_BYTES = 256 << 20  # of all workers that are gone
TOTAL_AGE_SECONDS = 7 * 86400.0
REPLY_BYTES = 4 << 20  # of text in one answer: a frame's header holds 16 MiB
ROW_BYTES = 200  # of the rest of a line's row
LAST_LINES = 10  # of a worker's output in an error
LAST_BYTES = 32 << 10  # looked through for them: with the stacks of some threads, where native code has crashed
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


@dataclass(frozen=True)
class Header:
    """Whose file it is."""

    worker: str
    function: str
    label: str
    began: float


def log_path(directory: Path, worker: str) -> Path:
    return directory / f"{worker}.log"


def create_log(path: Path, header: Header) -> None:
    """Make a worker's file with its first line; one that is there stays."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if not os.fstat(fd).st_size:
            os.write(fd, b"".join([RECORD, UNIT, META, UNIT, json.dumps(vars(header)).encode(), b"\n"]))
    finally:
        os.close(fd)


def append_note(path: Path, text: str) -> None:
    """Add a line of Stoker's own to a worker's file, or several, with their time."""
    prefix = b"".join([RECORD, UNIT, b"s", UNIT])
    lines = [b"".join([RECORD, UNIT, STAMP, UNIT, b"%x" % int(time.time() * 1000)])]
    lines += [prefix + line.encode("utf-8", "replace") for line in text.splitlines()]  # a record's mark ends a line too
    with path.open("ab", buffering=0) as file:
        file.write(b"\n".join(lines) + b"\n")


def trim(fd: int, size: int, *, keep: int = KEEP_BYTES) -> int:
    """Give back all but the newest ``keep`` bytes of a file, and its head; returns where the kept part begins, or 0."""
    end = (size - keep) // HEAD_BYTES * HEAD_BYTES
    if end <= HEAD_BYTES:
        return 0
    mode = ctypes.c_int(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
    if libc.fallocate(fd, mode, ctypes.c_long(HEAD_BYTES), ctypes.c_long(end - HEAD_BYTES)) != 0:
        # This file system knows no holes: start the file anew. Appending writers go on at its new end.
        os.ftruncate(fd, 0)
        return 0
    return end


class LogQuery(NamedTuple):
    """Which lines: the last ``tail``, of everything or of one worker, one call, some functions.

    ``functions`` are keys; where there are none, ``app`` and ``function`` go by names (the function's alone or with its
    app's), so that what a server has forgotten is found too. ``since`` and ``until`` are seconds since the epoch.
    """

    worker: str
    functions: list[str]
    app: str
    function: str
    call: str
    tail: int
    since: float = 0.0
    until: float = math.inf

    @classmethod
    def of(cls, params: dict[str, Any]) -> LogQuery:
        return cls(
            worker=str(params.get("worker") or ""),
            functions=[str(one) for one in params.get("functions") or []],
            app=str(params.get("app") or ""),
            function=str(params.get("function") or ""),
            call=str(params.get("call") or ""),
            tail=int(params.get("tail") or 1000),
            since=float(params.get("since") or 0.0),
            until=float(params.get("until") or math.inf),
        )

    def wants(self, header: Header) -> bool:
        if self.worker and header.worker != self.worker:
            return False
        if self.functions:
            return header.function in self.functions
        app, _, name = header.label.rpartition(".")
        return self.app in ("", app) and self.function in ("", name, header.label)


def read_logs(directory: Path, query: LogQuery) -> list[dict[str, Any]]:
    """Return what was printed, a dict for each line, the oldest first."""
    room = min(REPLY_BYTES // ROW_BYTES, query.tail)
    found: list[dict[str, Any]] = []
    for path in sorted(directory.glob("*.log"), key=_modified, reverse=True):
        at = _modified(path)
        if room <= 0 or at < query.since or (len(found) == room and at < found[0]["time"]):
            break  # nothing in it is newer than what there is, nor in those after it
        if not query.worker or path.stem == query.worker:
            found += _read_one(path, query._replace(tail=room))
            found = _newest(sorted(found, key=lambda line: line["time"]), room)
    return found


def last_lines(path: Path) -> list[Line]:
    """Return the last lines of a worker's file, a few, for an error that says how it ended; see `crash_reports`."""
    try:
        with path.open("rb") as file:
            start = _data_start(file.fileno(), len(file.readline(HEAD_BYTES)))
            size = os.fstat(file.fileno()).st_size
            at = max(start, size - LAST_BYTES)
            file.seek(at)
            whole = file.read().split(b"\n")
    except OSError:
        return []
    if at > start:
        del whole[0]  # the rest of a line
    joiner = Joiner()
    lines = [line for raw in whole for line in joiner.join(parse_lines(raw)) if line.text]
    lines += joiner.rest()
    return shortened(lines, most=LAST_LINES)


def _newest(lines: list[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """Return the last lines, as many as an answer holds."""
    size, start = 0, len(lines)
    while start > max(0, len(lines) - room) and size + len(lines[start - 1]["text"]) <= REPLY_BYTES:
        start -= 1
        size += len(lines[start]["text"])
    return lines[start:]


def _read_one(path: Path, query: LogQuery) -> list[dict[str, Any]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return []  # pruned just now
    with file:
        header = _read_header(path, file.readline(HEAD_BYTES))
        if not query.wants(header) or (query.call and not _mentions(file.fileno(), query.call)):
            return []
        start = _data_start(file.fileno(), file.tell())
        dropped = start - file.tell()
        file.seek(start)
        lines = _last_lines(file, query, REPLY_BYTES, began=header.began)
    if dropped and not query.call and len(lines) < query.tail:
        text = f"… {format_size(dropped)} of older output are gone: a worker keeps the newest"
        lines.insert(0, Line("", "stoker", text, time=lines[0].time if lines else header.began))
    common = {"worker": header.worker, "function": header.function, "label": header.label}
    return [{**common, "call": one.call, "stream": one.stream, "time": one.time, "text": one.text} for one in lines]


def _last_lines(file: Iterable[bytes], query: LogQuery, room: int, *, began: float) -> list[Line]:
    kept: deque[Line] = deque(maxlen=query.tail)
    size = 0
    at = began
    for found in _all_lines(file):
        at = found.time or at
        line = found._replace(time=at)
        if (not query.call or line.call == query.call) and query.since <= at <= query.until:
            size += len(line.text) - (len(kept[0].text) if len(kept) == query.tail else 0)
            kept.append(line)
        while size > room and kept:
            size -= len(kept.popleft().text)
    return list(kept)


def _all_lines(file: Iterable[bytes]) -> Iterator[Line]:
    joiner = Joiner()
    for raw in file:
        yield from joiner.join(parse_lines(raw.removesuffix(b"\n")))
    yield from joiner.rest()


def _read_header(path: Path, line: bytes) -> Header:
    try:
        return Header(**json.loads(line.rpartition(UNIT)[2]))
    except (ValueError, TypeError):
        return Header(path.stem, "", "", _modified(path))  # the file was started anew


def _data_start(fd: int, after_header: int) -> int:
    """Return where the kept output begins: after the header, or after the hole behind the first block."""
    size = os.fstat(fd).st_size
    if size <= HEAD_BYTES:
        return after_header
    at = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        hole = os.lseek(fd, HEAD_BYTES, os.SEEK_HOLE)
        return os.lseek(fd, HEAD_BYTES, os.SEEK_DATA) if hole == HEAD_BYTES < size else after_header
    except OSError:
        return after_header  # nothing but the hole, or a file system that knows none
    finally:
        os.lseek(fd, at, os.SEEK_SET)  # a file object above it counts on where it is


def _mentions(fd: int, call: str) -> bool:
    if not os.fstat(fd).st_size:
        return False
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        return mapped.find(RECORD + call.encode() + UNIT) >= 0


def prune(directory: Path, *, alive: set[str], total: int = TOTAL_BYTES, age: float = TOTAL_AGE_SECONDS) -> None:
    """Delete files of workers that are gone: the old ones, and the oldest of what takes too much room."""
    now = time.time()
    used = 0
    for path in sorted(directory.glob("*.log"), key=_modified, reverse=True):
        if path.stem in alive:
            continue
        try:
            used += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
        if used > total or now - _modified(path) > age:
            path.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0

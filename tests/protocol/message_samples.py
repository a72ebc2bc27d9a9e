"""One message of every kind, and the bytes that it is on the wire.

Run by any Python, with the standard library alone: ``message_samples.py <golden.json>`` checks that this side writes
exactly those bytes and reads them back. After a deliberate change of the protocol (and of its version) the file is
written again with ``message_samples.py <golden.json> write``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from stoker.protocol import data_messages as d
from stoker.protocol import input_messages as i
from stoker.protocol import messages as m
from stoker.protocol.frames import FrameReader, encode_prefix
from stoker.protocol.structure import decode_header, encode_header
from stoker.types import (
    CodeRef,
    ErrorInfo,
    FunctionSpec,
    GangSeat,
    GangSpec,
    ImageSpec,
    ImageStep,
    LocalPython,
    OptionsSpec,
    RetrySpec,
)

ERROR = ErrorInfo(
    "builtins.ValueError", "naïve 🔥\n", "Traceback …", ["builtins.ValueError"], {"retry_after": 1.5, "path": "args[0]"}
)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
GANG = GangSpec(2, 4)
IMAGE = ImageSpec(
    "3.11",
    LocalPython("/usr/bin/python3", ["/a", "/b"], "f00d", "beef"),
    [ImageStep("pip_install", {"requirements": ["numpy>=2"]})],
)
SPEC = FunctionSpec(
    app="digits",
    name="accuracy",
    code=CodeRef("digits", "accuracy", "b" * 8, "", True, "3.11"),
    image=IMAGE,
    options=OptionsSpec(
        cpu=0.5,
        memory=1 << 30,
        env={"A": "1"},
        retries=RetrySpec(3, 0.25, 2.0, 8.0, ["ValueError"]),
        max_workers=4,
        gang=GangSpec(2, 4),
    ),
    kind="generator",
    is_async=True,
    run_id="r-1",
    version=2,
    cwd="/home",
)

SEAT = GangSeat("g7-1", 1, ["127.0.0.1:40001", "127.0.0.1:40000"], ["n1", "n1"])

SAMPLES: tuple[Any, ...] = (
    m.Hello("client", "c-1", "0.1.0", "token", 42, "3.11.7", 3, 2, 17),
    m.Welcome("0.1.0", "server", 7, "/dev/shm/s", "/var/spill", 60.0, 3, ["c-1.1"], True),
    m.Rejected("VersionMismatch", "other", {"path": "x"}),
    m.Part(7),
    m.Submit(
        "key",
        ["c-1.1", "c-1.2"],
        [3, 0],
        {"1": ["c-1.2", 70000]},
        "map",
        True,
        2.5,
        -1,
        "c-0.9",
        4,
        "w7-1.3",
        "predict",
        TRACE,
    ),
    m.Accepted(["c-1.1"]),
    m.RefusedCalls(["c-1.2"], ERROR),
    m.Results(
        9, ["c-1.1", "c-1.2"], [0, 1], [2, 0], [1, 2], [0.25, 1e-06], {"0": ["r-1", 5]}, {"1": ERROR}, [0], [2, 0]
    ),
    m.Ack(12),
    m.Items("c-1.3", 2, 64, [1, 1], {}),
    m.StreamCredit("c-1.3", 128),
    m.Watch(["c-1.1"]),
    m.Cancel(["c-1.1"], "sibling", True),
    m.Window("key", 1000),
    m.Notice("log", {"texts": ["a\n"], "nested": {"n": None}}),
    m.PutBlob(3, "ab" * 32),
    m.Request(4, "register", {"app": "digits", "deep": [1, 2.5, True, None, {"a": "b"}]}),
    m.Reply(4, {"keys": {}}, ERROR),
    m.AskChannel("key"),
    m.Channel("key", "w7-1.3", "stoker-0a", "0b"),
    m.PutSegment("r-w7-1-3", [5], 9),
    m.Lease(["c-1.1"], [1], [3], {}, [64], 8, SEAT, [TRACE]),
    m.Held(["c-1.1"], [1], True, SEAT),
    m.CancelAttempts(["c-1.1"], [1], 10.0, "user"),
    m.Revoke(["c-1.1"], [1]),
    m.Revoked(["c-1.1"], [1]),
    m.Drain("idle"),
    m.OpenChannel("w7-1.3", "c-1"),
    m.ChannelOpened("w7-1.3", "stoker-0a", "0b"),
    m.CloseChannel("w7-1.3"),
    m.ChannelClosed("w7-1.3", ["c-1.1"], [1], "c-1.0"),
    m.NodeState(2.0, 1 << 33, 1.5, 1 << 32, {"gpu": "no"}, ["w1-1"], ["key"], [77], [0.5], [1 << 30], ["w1-2"]),
    m.StartWorker(7, "w7-1", SPEC, "w7-1.mac", 0.5, 1 << 30),
    m.StopWorker(7, "w7-1", 10.0, "idle"),
    m.WorkerStarted("w7-1", 78, "fork", {"fork": 0.002}),
    m.StartFailed("w7-1", ERROR, True),
    m.WorkerExited("w7-1", "signal", "killed by signal 9 (killed)", 1.5, 1 << 20, ["c-1.1"], ["last words"]),
    m.Phase("w7-1", "building", "numpy"),
    m.LogLines("w7-1", "key", ["c-1.1", ""], ["stdout", "stderr"], [1.0, 2.0], ["a\n", "é\n"]),
    m.FlushLogs(5),
    m.LogsFlushed(5),
    m.Usage(["w7-1"], [1.5], [1 << 20]),
    m.BuildImage(7, 6, IMAGE, "w7-1"),
    m.Beat(3, 30.0),
    m.ChannelUsed("w7-1.3", ["c-1.1"], [0], [0.5], [1.5], {"0": ERROR}, ["predict"]),
    m.ChannelHello("0b"),
    m.ChannelCall("c-1.1", TRACE),
    m.ChannelAnswer(1, ERROR, True, True),
    m.GatherRank("c-1.1", 1),
    m.RankGathered("c-1.1", 1, 40000, ["numpy==2.4.6", "python==3.11"]),
    d.Fetch("payload", "c-1.1.a"),
    d.Fetched(300_000, "0a1b2c3d"),
    d.FetchFailed("NotFound", "It is gone.", {"name": "c-1.1.a"}),
    d.WatchDrops(),
    d.Drop(["c-1.1.a"]),
    d.AgreeLock("0123456789abcdef0123456789abcdef-3.11", "six==1.16.0\n"),
    d.AgreedLock("six==1.16.0\n"),
    i.AskInputs("c-1.3", 1, 4, 1 << 20),
    i.Inputs("c-1.3", 1, [3, 2], 1),
    m.Checked("ping() raised OSError: no route"),
)


def body_of(message: Any) -> bytes:
    """Return a body whose parts have the sizes that the message announces."""
    return b"".join(bytes([65 + i]) * size for i, size in enumerate(getattr(message, "sizes", ())))


def frame_of(message: Any) -> bytes:
    kind, header = encode_header(message)
    body = body_of(message)
    return encode_prefix(kind, len(header), len(body)) + header + body


def check(golden: dict[str, str]) -> None:
    """Hold this side to the golden bytes."""
    if {type(sample).__name__ for sample in SAMPLES} != set(golden) or len(SAMPLES) != len(m.KINDS):
        raise SystemExit("the golden bytes are not those of every kind")
    for sample in SAMPLES:
        name, wire = type(sample).__name__, bytes.fromhex(golden[type(sample).__name__])
        if frame_of(sample) != wire:
            raise SystemExit(f"{name} is written as\n{frame_of(sample)!r}\nand was\n{wire!r}")
        ((kind, header, body),) = FrameReader().feed(wire)
        if decode_header(kind, header) != sample or bytes(body) != body_of(sample):
            raise SystemExit(f"{name} was read as {decode_header(kind, header)!r}")


def main(path: Path, *arguments: str) -> None:
    if arguments == ("write",):
        made = {type(sample).__name__: frame_of(sample).hex() for sample in SAMPLES}
        path.write_text(json.dumps(made, indent=0) + "\n", encoding="ascii")
    check(json.loads(path.read_text(encoding="ascii")))
    print(f"{len(SAMPLES)} kinds")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

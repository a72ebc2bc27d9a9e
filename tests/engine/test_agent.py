"""The agent as its server sees it, over real processes; the runner is a stub."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stoker import paths
from stoker.blobs.disk import DiskBlobStore
from stoker.engine.local import processes
from stoker.engine.local.ledger import Ledger
from stoker.images import code_holds
from stoker.protocol.messages import (
    FlushLogs,
    LogLines,
    LogsFlushed,
    NodeState,
    Phase,
    Reply,
    Request,
    StartFailed,
    StopWorker,
    WorkerExited,
    WorkerStarted,
)
from tests.engine.conftest import Bench
from tests.engine.fake_server import FakeServer, order
from tests.engine.waiting import until

MIB = 1 << 20


def texts_of(bench: Bench, worker: str) -> list[str]:
    """Return the lines of output that came of a worker."""
    return [text for lines in bench.server.all(LogLines, worker=worker) for text in lines.texts]


async def test_starts_a_worker_by_fork_and_stops_it(bench: Bench) -> None:
    bench.start_agent()
    state = await bench.server.get(NodeState)
    assert (state.cpus, state.memory, state.workers) == (4.0, 4 << 30, [])
    bench.server.send(order("w1", bench.function()))
    started = await bench.server.get(WorkerStarted, worker="w1")
    assert started.how == "fork" and {"environment", "zygote", "fork"} <= set(started.seconds)
    assert bench.server.all(Phase, phase="starting")
    bench.server.send(StopWorker(1, "w1", 5.0, "idle"))
    exited = await bench.server.get(WorkerExited, worker="w1")
    assert exited.cause == "stopped" and exited.detail == "idle (killed by signal 15 (terminated))"
    assert exited.peak_memory > MIB


async def test_workers_whose_agent_ends_with_its_owner_are_lost_with_their_node(bench: Bench) -> None:
    agent = bench.start_agent(until_stdin_closes=True, node="n7")
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function()))
    await bench.server.get(WorkerStarted, worker="w1")
    agent.close_stdin()
    exited = await bench.server.get(WorkerExited, worker="w1")
    assert exited.cause == "stopped" and "(n7) is going" in exited.detail
    assert await agent.wait() == 0


@pytest.mark.parametrize(
    ("body", "cause", "detail"),
    [
        ("raise SystemExit(3)", "exit", "exit status 3"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "signal",
            "killed by signal 11 (segmentation fault)",
        ),
    ],
)
async def test_tells_how_a_worker_ended(bench: Bench, body: str, cause: str, detail: str) -> None:
    bench.start_agent()
    bench.server.send(order("w1", bench.function(body=body))) if bench.server.hello else None
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function(body=body)))
    exited = await bench.server.get(WorkerExited, worker="w1")
    assert (exited.cause, exited.detail) == (cause, detail)


async def test_a_second_worker_shares_the_zygote(bench: Bench) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    function = bench.function()
    for worker in ("w1", "w2"):
        bench.server.send(order(worker, function))
        await bench.server.get(WorkerStarted, worker=worker)
    bench.server.send(Request(7, "inventory"))
    reply = await bench.server.get(Reply, id=7)
    assert [one["workers"] for one in reply.result["zygotes"]] == [["w1", "w2"]]


async def test_a_function_that_cannot_be_forked_starts_fresh(bench: Bench) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function(body="raise SystemExit(4)", env={"STUB_FORKABLE": "no"})))
    started = await bench.server.get(WorkerStarted, worker="w1")
    exited = await bench.server.get(WorkerExited, worker="w1")
    assert started.how == "fresh" and exited.detail == "exit status 4"
    assert texts_of(bench, "w1") == ["app.f starts without a zygote: it has 9 threads"]


@pytest.mark.parametrize(
    ("load", "options", "words"),
    [
        ("raise ValueError('no such thing')", {}, "app.f could not be loaded: ValueError: no such thing"),
        ("print('so far'); import os; os._exit(5)", {}, "its process ended while it loaded (exit status 5)"),
        ("import time; time.sleep(60)", {"startup_timeout": 0.5}, "did not load within its startup_timeout of 0.5 s"),
    ],
)
async def test_a_function_that_does_not_load(bench: Bench, load: str, options: dict[str, float], words: str) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function(load=load, **options)))
    failed = await bench.server.get(StartFailed, worker="w1")
    assert failed.error.type_name == "StartupError" and words in failed.error.message and not failed.retry
    if "ValueError" in load:
        assert "Traceback" in failed.error.traceback


async def test_a_start_can_be_called_off(bench: Bench) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function(load="import time; time.sleep(60)")))
    await bench.server.get(Phase, phase="starting")
    bench.server.send(StopWorker(1, "w1", 1.0, "nobody waits for it"))
    failed = await bench.server.get(StartFailed, worker="w1")
    assert "nobody waits for it" in failed.error.message


async def test_what_does_not_fit_is_refused_for_now(bench: Bench) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function(), cpus=3))
    await bench.server.get(WorkerStarted, worker="w1")
    bench.server.send(order("w2", bench.function(), cpus=2))
    failed = await bench.server.get(StartFailed, worker="w2")
    assert failed.retry
    bench.server.send(Request(1, "lend", {"worker": "w1", "cpus": 0.0}))
    bench.server.send(order("w3", bench.function(), cpus=2))
    await bench.server.get(WorkerStarted, worker="w3")


async def test_an_order_of_an_older_server_is_refused(bench: Bench) -> None:
    bench.server.term = 5
    bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function(), term=4))
    failed = await bench.server.get(StartFailed, worker="w1")
    assert failed.error.type_name == "Fenced"


DAEMON = """
import os, sys, time
r, w = os.pipe()
if not os.fork():
    os.setsid()
    if not os.fork():
        for fd in range(3): os.close(fd)
        os.write(w, str(os.getpid()).encode())
        time.sleep(600)
    os._exit(0)
os.wait()
print("daemon", os.read(r, 20).decode(), flush=True)
import subprocess
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""


@pytest.mark.parametrize("limits", ["auto", "watch"])
async def test_nothing_of_a_worker_outlives_it(bench: Bench, limits: str) -> None:
    bench.start_agent(limits=limits)
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function(body=DAEMON)))
    bench.server.send(order("w2", bench.function()))
    started = await bench.server.get(WorkerStarted, worker="w1")
    other = await bench.server.get(WorkerStarted, worker="w2")
    lines = await bench.server.get(LogLines, worker="w1")
    daemon = int(lines.texts[0].split()[1])
    assert processes.start_time(daemon) is not None
    # zygotes of two functions, two workers, the daemon and the subprocess
    await until(lambda: len(bench.left()) == 6, what="the subprocess")
    os.kill(started.pid, signal.SIGKILL)
    exited = await bench.server.get(WorkerExited, worker="w1")
    assert exited.cause == "signal"
    assert processes.start_time(daemon) is None
    assert len(bench.left()) == 3 and processes.start_time(other.pid) is not None


HOG = """
import time
blocks = []
while True:
    blocks.append(bytearray(b"x") * (8 << 20))
    time.sleep(0.005)
"""


@pytest.mark.parametrize("limits", ["cgroup1", "watch"])
async def test_a_worker_over_its_memory_is_ended(bench: Bench, limits: str) -> None:
    bench.start_agent(limits=limits)
    await bench.server.get(NodeState)
    bench.server.send(Request(1, "inventory"))
    reply = await bench.server.get(Reply, id=1)
    if reply.result["limits"] != limits:
        pytest.skip(f"no {limits} here: {reply.result['limits_why']}")
    load = "ballast = bytearray(b'x') * (150 << 20)"  # of the zygote's, and not charged to the worker
    bench.server.send(order("w1", bench.function(load=load, body=HOG), memory=100 * MIB))
    exited = await bench.server.get(WorkerExited, worker="w1")
    assert exited.cause == "memory" and "over its memory of 100.0 MiB" in exited.detail
    assert exited.peak_memory > 50 * MIB


async def test_output_comes_with_its_call_and_whole(bench: Bench) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    body = (
        "import os, time\n"
        "os.write(1, b'native\\n')\n"
        "os.write(1, b'\\x1ec-1\\x1fo\\x1fout\\n\\x1ec-2\\x1fe\\x1ferr\\nhalf')\n"
        "time.sleep(600)\n"
    )
    bench.server.send(order("w1", bench.function(body=body)))
    await bench.server.get(WorkerStarted, worker="w1")
    await until(lambda: "err" in texts_of(bench, "w1"), what="all of its output")
    bench.server.send(FlushLogs(3))
    await bench.server.get(LogsFlushed, id=3)
    bench.server.send(StopWorker(1, "w1", 1.0))
    await bench.server.get(WorkerExited, worker="w1")
    kinds = [type(one) for one in bench.server.messages if getattr(one, "worker", "") == "w1"]
    assert kinds[-1] is WorkerExited
    found = [
        line
        for one in bench.server.all(LogLines, worker="w1")
        for line in zip(one.calls, one.streams, one.texts, strict=True)
    ]
    assert found == [
        ("", "stdout", "native"),
        ("c-1", "stdout", "out"),
        ("c-2", "stderr", "err"),
        ("", "stdout", "half"),
    ]
    bench.server.send(Request(9, "logs", {"call": "c-2"}))
    reply = await bench.server.get(Reply, id=9)
    assert [(one["text"], one["stream"], one["label"]) for one in reply.result] == [("err", "stderr", "app.f")]


async def test_a_worker_that_prints_a_gigabyte(bench: Bench) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    body = (
        "import os\n"
        "chunk = (b'y' * 99 + b'\\n') * 10_000\n"
        "for _ in range(1000): os.write(1, chunk)\n"
        "os.write(1, b'the end\\n')\n"
    )
    bench.server.send(order("w1", bench.function(body=body)))
    await bench.server.get(WorkerExited, worker="w1", patience=40.0)
    path = bench.config.logs / "w1.log"
    await until(lambda: path.stat().st_blocks * 512 < 90 * MIB, what="what is too much to go")
    texts = texts_of(bench, "w1")
    assert texts[-1] == "the end" or "the end" in texts
    assert sum(map(len, texts)) < 64 * MIB and any("not shown live" in text for text in texts)
    agents = Path(f"/proc/{bench.agents[0].pid}/status").read_text()
    peak = int(next(line for line in agents.splitlines() if line.startswith("VmHWM")).split()[1])
    assert peak < 250 << 10


async def test_a_killed_zygote_ends_no_worker(bench: Bench) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function()))
    first = await bench.server.get(WorkerStarted, worker="w1")
    bench.server.send(Request(1, "inventory"))
    zygote = (await bench.server.get(Reply, id=1)).result["zygotes"][0]["pid"]
    os.kill(zygote, signal.SIGKILL)
    await until(lambda: processes.read_stat(zygote) is None, what="the zygote's end")
    bench.server.send(order("w2", bench.function()))
    await bench.server.get(WorkerStarted, worker="w2")
    os.kill(first.pid, signal.SIGSEGV)
    exited = await bench.server.get(WorkerExited, worker="w1")
    assert exited.detail == "killed by signal 11 (segmentation fault)"


async def test_a_new_agent_adopts_what_a_killed_one_left(bench: Bench) -> None:
    agent = bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function(), memory=100 * MIB))
    bench.server.send(order("w2", bench.function()))
    first = await bench.server.get(WorkerStarted, worker="w1")
    second = await bench.server.get(WorkerStarted, worker="w2")
    agent.kill()
    os.kill(second.pid, signal.SIGKILL)
    await until(lambda: processes.start_time(second.pid) is None, what="its end")
    bench.server.messages.clear()
    bench.start_agent()
    state = await bench.server.get(NodeState)
    assert (state.workers, state.pids, state.memory_held) == (["w1"], [first.pid], [100 * MIB])
    assert (await bench.server.get(WorkerExited, worker="w2")).cause == "unknown"
    os.kill(first.pid, signal.SIGKILL)
    assert (await bench.server.get(WorkerExited, worker="w1")).cause == "unknown"
    await until(lambda: not bench.left(), what="the old zygote's end")


async def test_what_happens_without_a_server_is_told_to_the_next(bench: Bench) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(
        order("w1", bench.function(body="import time; time.sleep(0.4); print('late'); raise SystemExit(6)"))
    )
    started = await bench.server.get(WorkerStarted, worker="w1")
    await bench.server.close()
    await until(lambda: processes.start_time(started.pid) is None, what="the worker's end")
    await until(lambda: not Ledger(bench.config.ledger).state.workers, what="the agent to have seen it")
    successor = FakeServer(bench.config.server_socket, term=2)
    await successor.listen()
    exited = await successor.get(WorkerExited, worker="w1")
    assert exited.detail == "exit status 6"
    assert (await successor.get(LogLines, worker="w1")).texts == ["late"]
    await successor.get(NodeState)
    assert successor.hello is not None and successor.hello.term == 1
    assert successor.messages.index(exited) < [type(one) for one in successor.messages].index(NodeState)
    await successor.close()


async def test_an_embedded_agent_left_alone_ends_everything(bench: Bench) -> None:
    agent = bench.start_agent(grace=0.5)
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function()))
    started = await bench.server.get(WorkerStarted, worker="w1")
    await bench.server.close()
    assert await agent.wait() == 0
    assert processes.start_time(started.pid) is None and bench.left() == []
    assert not bench.config.run_dir.exists()


async def test_the_server_ends_the_agent(bench: Bench) -> None:
    agent = bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(order("w1", bench.function()))
    await bench.server.get(WorkerStarted, worker="w1")
    bench.server.send(Request(2, "stop", {"term": 1, "grace": 2.0}))
    await bench.server.get(Reply, id=2)
    assert bench.server.all(WorkerExited, worker="w1")
    assert await agent.wait() == 0
    assert sorted(path.name for path in bench.config.run_dir.iterdir()) == ["server.sock"]


@pytest.mark.parametrize("taken_over", [False, True])
async def test_an_agent_left_alone_by_a_persistent_server_removes_its_shared_memory(
    bench: Bench, short_path: Path, taken_over: bool
) -> None:
    segments = short_path / "shm"
    segments.mkdir()
    (segments / "c-1.1.a").write_bytes(b"x")
    bench.server.segments = str(segments)
    agent = bench.start_agent(mode="persistent", grace=0.5)
    await bench.server.get(NodeState)
    with (bench.config.state_dir / "server.lock").open("w") as lock:
        if taken_over:
            fcntl.flock(lock, fcntl.LOCK_EX)
        await bench.server.close()
        assert await agent.wait() == 0
    assert segments.exists() is taken_over
    assert not list(short_path.glob("shm.gone*"))


async def test_a_second_agent_of_a_run_leaves_at_once(bench: Bench) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    assert await bench.start_agent().wait() == 0


async def test_two_programs_share_the_node(bench: Bench, short_path: Path) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    other_run = short_path / "other"
    other_run.mkdir(mode=0o700)
    server = FakeServer(other_run / "server.sock")
    await server.listen()
    bench.start_agent(run_dir=other_run, state_dir=short_path / "state2", server_socket=server.path)
    await server.get(NodeState)
    server.send(order("o1", bench.function(), cpus=3))
    await server.get(WorkerStarted, worker="o1")
    await bench.server.get(NodeState, cpus_free=1.0)
    bench.server.send(order("w1", bench.function(), cpus=2))
    assert (await bench.server.get(StartFailed, worker="w1")).retry
    server.send(StopWorker(1, "o1", 1.0))
    await server.get(WorkerExited, worker="o1")
    await until(lambda: bench.server.all(NodeState)[-1].cpus_free == 4.0, what="the freed cores")
    bench.server.send(order("w2", bench.function(), cpus=2))
    await bench.server.get(WorkerStarted, worker="w2")
    await server.close()


@pytest.mark.parametrize("verb", ["nonsense", "image_lock"])
async def test_bad_requests_get_an_error(bench: Bench, verb: str) -> None:
    bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(Request(1, verb, {"key": "x"}))
    reply = await bench.server.get(Reply, id=1)
    assert reply.error is not None and reply.error.type_name in ("InvalidRequest", "NotFound")


async def test_source_that_runs_is_held_by_the_next_agent_too(bench: Bench, short_path: Path) -> None:
    digest = hashlib.sha256(b"a pickle").hexdigest()
    DiskBlobStore(paths.blobs()).put(f"bundle/{digest}", [b"a pickle"])
    function = bench.function()
    function = replace(function, code=replace(function.code, by_value=digest))
    first = bench.start_agent()
    await bench.server.get(NodeState)
    bench.server.send(order("w1", function))
    await bench.server.get(WorkerStarted, worker="w1")
    root, later = short_path / "home" / "bundles", time.time() + 30 * 86400.0
    assert code_holds.sweep(root, clock=lambda: later) == []
    first.kill()
    await first.wait()
    bench.server.messages.clear()
    bench.start_agent()
    await bench.server.get(NodeState)
    assert code_holds.sweep(root, clock=lambda: later) == []
    bench.server.send(StopWorker(1, "w1", 0.0))
    await bench.server.get(WorkerExited, worker="w1")
    swept = await until(lambda: code_holds.sweep(root, clock=lambda: later), what="the hold's end")
    assert swept == [f"{digest}.pickle"]

"""The agent with Stoker's own runner: a bundle, a zygote that imports it, workers that greet the server."""

from __future__ import annotations

import io
import os
import signal
import tarfile
import threading

import pytest

from stoker import paths
from stoker.blobs.disk import DiskBlobStore
from stoker.engine.local import processes
from stoker.protocol.messages import LogLines, NodeState, StartFailed, StopWorker, WorkerExited, WorkerStarted
from stoker.types import CodeRef, FunctionSpec, OptionsSpec
from tests.engine.conftest import Bench
from tests.engine.fake_server import order
from tests.engine.waiting import until

SOURCE = "import os\nprint('imported by', os.getpid())\ndef f(x):\n    return x\n"


@pytest.fixture
def own_bench(bench: Bench) -> Bench:
    """A bench whose agents use Stoker's own runner."""
    bench.start_agent(runner="")
    return bench


def function_of(bench: Bench, source: str, **options: float) -> FunctionSpec:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("module.py")
        member.size = len(source)
        archive.addfile(member, io.BytesIO(source.encode()))
    digest = f"{abs(hash(source)):064x}"
    DiskBlobStore(paths.blobs()).put(f"bundle/{digest}", [buffer.getvalue()])
    code = CodeRef(module="module", qualname="f", bundle=digest)
    return FunctionSpec("app", "f", code, bench.image, OptionsSpec(**options))  # type: ignore[arg-type]


async def test_workers_greet_the_server_and_end_when_told(own_bench: Bench) -> None:
    server = own_bench.server
    await server.get(NodeState)
    function = function_of(own_bench, SOURCE)
    server.send(order("w1", function, memory=512 << 20))
    server.send(order("w2", function))
    first = await server.get(WorkerStarted, worker="w1")
    await server.get(WorkerStarted, worker="w2")
    assert first.how == "fork"
    await until(lambda: {hello.name for hello in server.workers} == {"w1", "w2"}, what="the workers' greetings")
    await until(lambda: len(server.workers) == 4, what="both greetings of each")
    assert {(hello.role, hello.token) for hello in server.workers if hello.name == "w1"} == {
        ("worker", "token-w1"),
        ("control", "token-w1"),
    }
    lines = await server.get(LogLines, function=function.key)
    assert lines.texts[0].startswith("imported by") and lines.streams == ["stdout"]
    server.send(StopWorker(1, "w1", 5.0, "idle"))
    assert (await server.get(WorkerExited, worker="w1")).cause == "stopped"
    second = server.all(WorkerStarted, worker="w2")[0]
    os.kill(second.pid, signal.SIGKILL)
    assert (await server.get(WorkerExited, worker="w2")).detail == "killed by signal 9"


async def test_a_module_that_starts_threads_is_not_forked(own_bench: Bench) -> None:
    await own_bench.server.get(NodeState)
    source = f"import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n{SOURCE}"
    own_bench.server.send(order("w1", function_of(own_bench, source)))
    started = await own_bench.server.get(WorkerStarted, worker="w1")
    assert started.how == "fresh" and threading.active_count() >= 1
    await until(lambda: own_bench.server.workers, what="the worker's greeting")
    os.kill(started.pid, signal.SIGSEGV)
    assert (await own_bench.server.get(WorkerExited, worker="w1")).detail == "killed by signal 11 (segmentation fault)"


async def test_a_module_with_an_error_gives_its_traceback(own_bench: Bench) -> None:
    await own_bench.server.get(NodeState)
    own_bench.server.send(order("w1", function_of(own_bench, "import not_installed_anywhere\n")))
    failed = await own_bench.server.get(StartFailed, worker="w1")
    assert failed.error.type_name == "StartupError"
    assert "not_installed_anywhere" in failed.error.message and "module.py" in failed.error.traceback


async def test_a_killed_agent_leaves_workers_to_the_next(own_bench: Bench) -> None:
    await own_bench.server.get(NodeState)
    own_bench.server.send(order("w1", function_of(own_bench, SOURCE)))
    started = await own_bench.server.get(WorkerStarted, worker="w1")
    own_bench.agents[0].kill()
    own_bench.server.messages.clear()
    own_bench.start_agent(runner="")
    state = await own_bench.server.get(NodeState)
    assert state.pids == [started.pid] and processes.start_time(started.pid) is not None

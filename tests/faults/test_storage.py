"""Disks that are full, stores that cannot be used, shared memory that is full, servers that come back too late."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import stoker
from stoker.client import session as sessions
from tests.faults import work
from tests.faults.running import PersistentServer, by_role, kill
from tests.store.small_disk import small_disk
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

PROGRAMS = Path(__file__).parent / "programs"


def test_a_full_disk_refuses_detached_calls_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime_dir: Path
) -> None:
    with small_disk(tmp_path / "disk", size=32 << 20) as disk:
        monkeypatch.setenv("STOKER_HOME", str(disk.root / "home"))
        server = PersistentServer()
        server.start()
        try:
            with work.app.run():
                assert work.square.spawn(2).result(timeout=30) == 4
                payload = "x" * 100_000
                with disk.full():
                    with pytest.raises(stoker.StoreError, match="No space is left"):
                        for _ in range(20):  # the write-ahead log has some room of its own
                            work.echo.spawn(payload)
                    assert work.square.remote(3) == 9
                call = work.square.spawn(4)
                assert call.result(timeout=30) == 16
                assert work.echo.spawn(payload).result(timeout=30) == payload
        finally:
            sessions.close()
            server.stop()


def test_a_result_that_finds_the_disk_full_is_written_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime_dir: Path
) -> None:
    with small_disk(tmp_path / "disk", size=32 << 20) as disk:
        monkeypatch.setenv("STOKER_HOME", str(disk.root / "home"))
        server = PersistentServer()
        server.start()
        try:
            with work.app.run():
                work.grows.remote(str(tmp_path / "nothing"), 1)
                gate = tmp_path / "gate"
                call = work.grows.spawn(str(gate), 200_000)
                wait_until(lambda: call.status() is stoker.CallState.LEASED)
                with disk.full():
                    gate.touch()
                    with pytest.raises(TimeoutError):
                        call.result(timeout=2)
                assert len(call.result(timeout=30)) == 200_000
        finally:
            sessions.close()
            server.stop()


@pytest.mark.parametrize("damage", ["garbage", "cut", "newer"])
def test_a_store_that_cannot_be_used_is_named_and_left_alone(damage: str, own_home: Path, runtime_dir: Path) -> None:
    server = PersistentServer()
    assert "error" not in server.start()
    with work.app.run():
        work.square.spawn(2).result(timeout=30)
    sessions.close()
    server.stop()
    path = own_home / "server" / "store.db"
    if damage == "newer":
        with closing(sqlite3.connect(path)) as store:
            store.execute("INSERT INTO migrations VALUES (99, 'of_tomorrow', '9.9.9', 0)")
            store.commit()
    else:
        path.write_bytes(os.urandom(70_000) if damage == "garbage" else path.read_bytes()[:5000])
    before = path.read_bytes()
    answer = server.start()
    server.stop()
    error = answer["error"]
    assert isinstance(error, dict)
    assert error["type_name"] == "StoreError"
    assert str(path) in error["message"]
    assert ("9.9.9" in error["message"]) == (damage == "newer")
    assert path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a small /dev/shm needs root and unshare")
def test_payloads_go_to_the_disk_when_shared_memory_is_full(runtime_dir: Path) -> None:
    mounts = "mount --make-rprivate / && mount -t tmpfs -o size=1m tmpfs /dev/shm"
    command = [sys.executable, str(PROGRAMS / "big_payloads.py")]
    found = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.split() == ["8388608", "8388608", "8388608", "33554432"]


def test_a_server_that_was_stopped_while_another_took_over_settles_nothing(
    server: PersistentServer, own_home: Path, runtime_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    with work.app.run():
        call = work.waits.spawn(str(gate))
        wait_until(lambda: call.status() is stoker.CallState.LEASED)
        kill(server.pid, signal.SIGSTOP)
        (own_home / "server" / "server.lock").unlink()  # as a lock that a network file system has lost
        runtime2 = runtime_dir.with_name(runtime_dir.name + "b")
        monkeypatch.setenv("STOKER_RUNTIME_DIR", str(runtime2))
        second = PersistentServer()
        try:
            assert "error" not in second.start()
            kill(server.pid, signal.SIGCONT)
            gate.write_text("the answer")
            assert server.process is not None
            server.process.wait(30)
            assert "taken it over" in server.log.read_text()
            sessions.close()  # the next one finds the second server
            assert stoker.Call.from_id(call.id).result(timeout=60) == "the answer"
        finally:
            sessions.close()
            second.stop()
            shutil.rmtree(runtime2, ignore_errors=True)
    with closing(sqlite3.connect(own_home / "server" / "store.db")) as store:
        assert store.execute("SELECT count(*) FROM results").fetchone() == (1,)


def test_an_answer_of_an_attempt_that_was_given_to_another_worker_is_dropped(
    server: PersistentServer, runtime_dir: Path, tmp_path: Path
) -> None:
    gate, began = tmp_path / "gate", tmp_path / "began"
    with work.app.run():
        call = work.tells.spawn(str(began), str(gate))
        wait_until(lambda: began.exists() and began.read_text().endswith("\n"))
        (first,) = began.read_text().split()
        kill(int(first), signal.SIGSTOP)
        server.kill()
        server.start()
        # The restarted server waits for the node's lease, 30 s, for what the worker might have to say. Then it counts
        # on that worker still, and starts others for what more there is to do; the oldest call goes first.
        others = [work.tells.spawn(str(tmp_path / f"began{n}"), str(gate)) for n in range(3)]
        wait_until(lambda: len(began.read_text().split()) == 2, timeout=50, message="it is run again")
        pids = began.read_text().split()
        gate.touch()
        assert call.result(timeout=20) == int(pids[1])
        kill(int(first), signal.SIGCONT)
        assert {other.result(timeout=20) for other in others}
        assert stoker.Call.from_id(call.id).result(timeout=5) == int(pids[1])
        assert by_role(runtime_dir)["server"] == [server.pid]

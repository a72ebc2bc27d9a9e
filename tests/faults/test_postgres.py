"""Servers on a PostgreSQL store: it is restarted under load, cut off, shared by two, and named wrongly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import stoker
from stoker.client import session as sessions
from tests.faults import work
from tests.faults.running import PersistentServer, kill
from tests.postgres import PASSWORD, PostgresServer
from tests.tcp_proxy import CuttingProxy
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

SUCCEEDED = 1  # as the store writes it


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[CuttingProxy]:
    with CuttingProxy(postgres.port) as found:
        yield found


@pytest.fixture
def server(
    *,
    postgres: PostgresServer,
    proxy: CuttingProxy,
    schema: str,
    own_home: Path,
    runtime_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[PersistentServer]:
    """Return a server that runs, with the proxy between it and its store."""
    monkeypatch.setenv("STOKER_STORE", postgres.url(schema, port=proxy.port))
    found = PersistentServer()
    answer = found.start()
    assert "error" not in answer, answer
    yield found
    sessions.close()
    found.stop()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "stoker.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


def check_rows(postgres: PostgresServer, schema: str, ids: set[str]) -> None:
    query = "SELECT id, state, count(r.seq) FROM {0}.calls c LEFT JOIN {0}.results r USING (seq) GROUP BY c.seq"
    with postgres.connect() as connection:
        rows = {row[0]: (row[1], row[2]) for row in connection.execute(query.format(schema).encode())}
    assert rows.keys() == ids
    assert set(rows.values()) == {(SUCCEEDED, 1)}


def test_a_database_restarted_under_load_loses_nothing(
    server: PersistentServer, postgres: PostgresServer, schema: str
) -> None:
    calls: list[stoker.Call[int]] = []
    with work.app.run():
        for _ in range(3):
            calls += work.quick.spawn_map(range(len(calls), len(calls) + 200))
            postgres.stop(signal.SIGQUIT)
            assert work.quick.remote(12) == 144, "attached calls do not wait for the store"
            postgres.start()
            calls.append(work.quick.spawn(len(calls)))
        assert [call.result(timeout=60) for call in calls] == [x * x for x in range(len(calls))]
        again = [stoker.Call.from_id(call.id) for call in calls]
        assert [call.result(timeout=30) for call in again] == [x * x for x in range(len(calls))]
    assert server.process is not None
    assert server.process.poll() is None, "a lost connection is no other server's term"
    assert PASSWORD not in server.log.read_text()
    check_rows(postgres, schema, {call.id for call in calls})


def test_a_spawn_waits_for_a_database_that_is_away(server: PersistentServer, proxy: CuttingProxy) -> None:
    with work.app.run():
        assert work.quick.spawn(1).result(timeout=30) == 1
        proxy.refusing = True
        proxy.cut()
        spawned: list[stoker.Call[int]] = []

        def spawn() -> None:
            spawned.append(work.quick.spawn(5))

        thread = threading.Thread(target=spawn)
        thread.start()
        wait_until(lambda: "is waited for" in server.log.read_text(), message="the server says that it waits")
        assert work.quick.remote(3) == 9
        assert not spawned, "it is not acknowledged"
        proxy.refusing = False
        thread.join(30)
        assert spawned[0].result(timeout=30) == 25


def test_answers_to_commits_that_are_lost_lose_and_repeat_nothing(
    server: PersistentServer, proxy: CuttingProxy, postgres: PostgresServer, schema: str
) -> None:
    calls: list[stoker.Call[int]] = []
    with work.app.run():
        for n in range(10):
            proxy.lose_answer_to = b"COMMIT"
            calls.append(work.quick.spawn(n))
            assert calls[-1].result(timeout=30) == n * n
    assert proxy.lost >= 10
    check_rows(postgres, schema, {call.id for call in calls})


def test_a_stopped_server_is_overtaken_by_a_standby_and_settles_nothing(
    *,
    server: PersistentServer,
    postgres: PostgresServer,
    schema: str,
    own_home: Path,
    runtime_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = tmp_path / "gate"
    runtime2 = runtime_dir.with_name(runtime_dir.name + "b")
    with work.app.run():
        call = work.waits.spawn(str(gate))
        wait_until(lambda: call.status() is stoker.CallState.LEASED)
        first_runtime = os.environ["STOKER_RUNTIME_DIR"]
        monkeypatch.setenv("STOKER_RUNTIME_DIR", str(runtime2))
        home2 = tmp_path / "home2"
        home2.mkdir()
        (home2 / "blobs").symlink_to(own_home / "blobs")  # functions' code is where both find it
        monkeypatch.setenv("STOKER_HOME", str(home2))
        monkeypatch.setenv("STOKER_STORE", postgres.url(schema))
        refused = PersistentServer()
        answer: Any = refused.start()
        assert f"pid {server.pid}" in answer["error"]["message"]
        assert "--standby" in answer["error"]["message"]
        refused.stop()
        second = PersistentServer("--standby")
        try:
            waiting: Any = second.start()
            assert f"pid {server.pid}" in waiting["standby"]
            kill(server.pid, signal.SIGSTOP)
            end_sessions_of(postgres, server.pid)
            wait_until(lambda: (runtime2 / "server" / "server.sock").exists(), timeout=30, message="it took over")
            kill(server.pid, signal.SIGCONT)
            gate.write_text("the answer")
            assert server.process is not None
            server.process.wait(30)
            assert "taken it over" in server.log.read_text()
            monkeypatch.setenv("STOKER_RUNTIME_DIR", first_runtime)
            sessions.close()
            monkeypatch.setenv("STOKER_RUNTIME_DIR", str(runtime2))
            assert stoker.Call.from_id(call.id).result(timeout=60) == "the answer"
        finally:
            sessions.close()
            second.stop()
            shutil.rmtree(runtime2, ignore_errors=True)
    check_rows(postgres, schema, {call.id})


def end_sessions_of(postgres: PostgresServer, pid: int) -> None:
    """Do what keepalives do when a machine is gone."""
    with postgres.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s",
            (f"stoker % pid {pid} %",),
        )


def test_the_password_is_shown_nowhere(
    postgres: PostgresServer, schema: str, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.url(schema)
    shown: list[str] = []

    def said(*arguments: str) -> str:
        done = command(*arguments)
        shown.append(done.stdout + done.stderr)
        assert done.returncode == 0, shown[-1]
        return done.stdout

    try:
        said("server", "start", "--store", url)
        status = json.loads(said("server", "status", "--json"))
        assert status["store"].endswith(f"/postgres?schema={schema}")
        said("server", "status")
    finally:
        command("server", "stop")
    shown.append((own_home / "server" / "server.log").read_text())
    monkeypatch.setenv("STOKER_STORE", url)
    said("config", "show")
    assert "owner:***@" in said("config", "show", "--json")
    assert "PostgreSQL" in said("doctor")
    secret = url.split("owner:")[1].split("@127")[0]
    assert not any(PASSWORD in text or secret in text for text in shown)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.replace("owner:", "stranger:"), "user or the password is wrong"),
        (lambda url: url.replace("/postgres?", "/nowhere?"), "does not exist"),
        (lambda url: url.replace("127.0.0.1", "no-such-host.invalid"), "No such host"),
        (lambda url: "mysql://me:hidden@host/db", "not the URL of a PostgreSQL database"),
        (lambda url: url.replace("schema=", "schema=A%20b"), "not a plain name"),
    ],
)
def test_a_wrong_url_is_an_error_before_anything_starts(
    *, postgres: PostgresServer, schema: str, own_home: Path, runtime_dir: Path, change: Any, said: str
) -> None:
    done = command("server", "start", "--store", change(postgres.url(schema)))
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert PASSWORD not in done.stderr
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((runtime_dir / "server").glob("*")) if (runtime_dir / "server").exists() else True
    assert command("server", "status").returncode == 1


def test_a_store_of_a_newer_stoker_is_refused(server: PersistentServer, postgres: PostgresServer, schema: str) -> None:
    server.stop()
    with postgres.connect() as connection:
        connection.execute(f"INSERT INTO {schema}.migrations VALUES (99, 'of_tomorrow', '9.9.9', 0)".encode())
    answer: Any = server.start()
    assert "written by Stoker 9.9.9" in answer["error"]["message"]
    with postgres.connect() as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT 1 FROM nothing_else_was_made")

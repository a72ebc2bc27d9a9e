"""A real PostgreSQL for tests: one server of this run's own, on a free port, as no user in particular.

Its programs are those of the `pgserver` package, of the directory that STOKER_TEST_POSTGRES names, or the system's.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.waiting import wait_until

Line = list[str | Path]

START_SECONDS = 60.0
PASSWORD = "the-owner's p@ss/word"
_SETTINGS = {
    "fsync": "off",  # what a machine's crash leaves is PostgreSQL's own concern
    "shared_buffers": "32MB",
    "max_connections": "60",
    "logging_collector": "off",
    "log_min_messages": "fatal",
    "lc_messages": "C",
    "autovacuum_naptime": "10min",
}


@dataclass
class PostgresServer:
    """A server process over a directory of its own. ``as_user``: who runs it, because it refuses root."""

    programs: Path
    root: Path
    as_user: dict[str, Any]
    settings: dict[str, str] = field(default_factory=lambda: dict(_SETTINGS))
    port: int = field(default_factory=lambda: _free_port())
    process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        data = self.root / "data"
        word = self.root / "password"
        word.write_text(PASSWORD)
        if self.as_user:
            for path in (self.root, word):
                os.chown(path, self.as_user["user"], self.as_user["group"])
        line: Line = [self.programs / "initdb", "-D", data, "-U", "owner", "--auth=scram-sha-256", f"--pwfile={word}"]
        line += ["--encoding=UTF8", "--locale=C", "--no-sync"]
        found = subprocess.run(line, capture_output=True, text=True, check=False, cwd=self.root, **self.as_user)
        assert found.returncode == 0, found.stdout + found.stderr

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        options = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        with (self.root / "log").open("ab") as log:
            line: Line = [self.programs / "postgres", "-D", self.root / "data", "-p", str(self.port)]
            self.process = subprocess.Popen(
                [*line, "-h", "127.0.0.1", "-k", self.root, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                env={"LC_ALL": "C", "PATH": os.environ.get("PATH", "")},  # no test's own: it outlives the first
                start_new_session=True,
                **self.as_user,
            )
        wait_until(self.answers, timeout=START_SECONDS, message="PostgreSQL answers")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.root / "log").read_text()
        with suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def stop(self, number: int = signal.SIGQUIT) -> None:
        """End it as `pg_ctl stop -m immediate` does: without a word to anybody, as in a crash."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(START_SECONDS)

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="owner", password=PASSWORD, dbname=database, autocommit=True
        )

    def url(self, schema: str, *, port: int = 0, user: str = "owner", password: str = PASSWORD) -> str:
        login = f"{user}:{password.replace('@', '%40').replace('/', '%2F').replace(' ', '%20')}"
        return f"postgresql://{login}@127.0.0.1:{port or self.port}/postgres?schema={schema}"


@contextmanager
def running(**settings: str) -> Iterator[PostgresServer]:
    """Have a server of one's own for a block, with these settings beside those of tests."""
    root = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    server = PostgresServer(_programs(root), root, _as_user(), {**_SETTINGS, **settings})
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)


def fresh_schema() -> str:
    return f"test_{secrets.token_hex(6)}"


def drop_schema(server: PostgresServer, schema: str) -> None:
    """Drop a schema, with whatever a test that failed left working on it; a server that does not run is started."""
    if server.process is None or server.process.poll() is not None:
        server.start()
    with server.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'stoker %%' AND pid IN "
            "(SELECT pid FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n "
            "ON n.oid = c.relnamespace WHERE n.nspname = %s)",
            (schema,),
        )
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())


def _programs(root: Path) -> Path:
    """Return the directory of PostgreSQL's programs, where the user who runs them may read it."""
    spec = importlib.util.find_spec("pgserver")
    places = [Path(os.environ["STOKER_TEST_POSTGRES"])] if "STOKER_TEST_POSTGRES" in os.environ else []
    if spec is not None and spec.origin is not None:
        places.append(Path(spec.origin).parent / "pginstall" / "bin")
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    places += [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    place = next((place for place in places if (place / "initdb").exists()), None)
    if place is None:
        why = "no PostgreSQL was found: install the pgserver package, or set STOKER_TEST_POSTGRES to its bin directory"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return place if _may_run(place) else _copied(place, root)


def _may_run(place: Path) -> bool:
    try:
        line: Line = [place / "postgres", "--version"]
        return not subprocess.run(line, capture_output=True, check=False, cwd="/", **_as_user()).returncode
    except PermissionError:
        return False


def _copied(place: Path, root: Path) -> Path:
    """Copy an installation, with the libraries that lie beside the package, to where every user may read it."""
    package = place.parent.parent
    (root / "programs").mkdir()
    root.chmod(0o755)
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, root / "programs" / part.name, symlinks=True)
    for path in (root / "programs").rglob("*"):
        path.chmod(path.stat().st_mode | 0o044 | (0o011 if path.stat().st_mode & 0o100 else 0))
    return root / "programs" / package.name / place.parent.name / place.name


def _as_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

"""Every command on the page about PostgreSQL, run as it stands there, in the page's order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.running import by_role
from tests.postgres import PASSWORD, PostgresServer
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "storage.md"


def blocks() -> list[str]:
    """Return the blocks of commands of the page's section."""
    _, _, section = PAGE.read_text().partition("\n## PostgreSQL\n")
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    return re.findall(r"^```bash\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres
    with postgres.connect() as connection:
        connection.execute("DROP DATABASE IF EXISTS stoker WITH (FORCE)")
        connection.execute("DROP ROLE IF EXISTS stoker")


def test_the_page_from_top_to_bottom(
    database: PostgresServer, own_home: Path, runtime_dir: Path, tmp_path: Path
) -> None:
    install, make, first, second, end, stop = blocks()
    assert install == "pip install '.[postgres]'\n"
    assert re.search(r"^postgres = \[", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    runtime2 = runtime_dir.with_name(f"x{runtime_dir.name}")  # no prefix of the other
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "stoker").write_text(f'#!/bin/sh\nexec {sys.executable} -m stoker.cli "$@"\n')
    (bin_dir / "stoker").chmod(0o755)
    admin = f"host=127.0.0.1 port={database.port} user=owner password='{PASSWORD.replace(chr(39), chr(92) + chr(39))}'"
    environ = {
        **os.environ,
        "ADMIN_URL": f"{admin} dbname=postgres",
        "HOME": str(tmp_path),
        "PATH": f"{bin_dir}:{database.programs}:{os.environ['PATH']}",
    }

    def run(*parts: str) -> str:
        script = "set -eu\n" + "".join(parts)
        script = script.replace("@db.example/", f"@127.0.0.1:{database.port}/").replace("/tmp/second", str(runtime2))
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=environ)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "change-me" not in done.stdout + done.stderr
        return done.stdout

    url = next(line for line in first.splitlines(keepends=True) if line.startswith("export STOKER_STORE"))
    places = second.splitlines(keepends=True)[0]
    try:
        run(make)
        said = run(first)
        assert "answers; spawned calls are kept there" in said
        assert "postgresql://stoker:***@" in said
        assert "waits as a standby" in run(url, second)
        run(end)
        wait_until((runtime2 / "server" / "server.sock").exists, timeout=30, message="the standby took over")
        wait_until(lambda: not by_role(runtime_dir), timeout=30, message="the first has ended")
        assert "taken it over" in (own_home / "server" / "server.log").read_text()
    finally:
        run(places, stop)
        run(stop)
    assert not by_role(runtime2)

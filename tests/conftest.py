"""Each test has a runtime directory of its own, and leaves nothing behind in it.

Environments are shared by the whole run (``STOKER_HOME``), so that none is built twice; a test that starts a
persistent server takes ``own_home``.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import leftovers
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

GRACE_SECONDS = 30.0  # the longest grace of anything embedded, with room for a busy machine
_KEPT = ("STOKER_TEST_VENV", "STOKER_TEST_PYTHON", "STOKER_PYTHONS")


def _session_root() -> Path:
    """Return the directory of this run; parallel workers of pytest share their parent's."""
    if known := os.environ.get("STOKER_TEST_ROOT"):
        return Path(known)
    return Path(tempfile.mkdtemp(prefix="st", dir="/tmp"))  # short: a Unix socket's path has at most 107 bytes


def pytest_configure(config: pytest.Config) -> None:
    root = _session_root()
    owner = "STOKER_TEST_ROOT" not in os.environ
    for name in [name for name in os.environ if name.startswith("STOKER_") and name not in _KEPT]:
        del os.environ[name]
    if owner:
        config.stash[_OWNED] = root
    os.environ["STOKER_TEST_ROOT"] = str(root)
    os.environ["STOKER_HOME"] = str(root / "home")
    os.environ["STOKER_HTTP"] = "off"  # a port of its own for each server that is asked over HTTP, and for those alone
    os.environ["STOKER_RUNTIME_DIR"] = str(root / "r")
    os.environ["XDG_CONFIG_HOME"] = str(root / "config")
    config.stash[_SEGMENTS] = leftovers.segments()


def pytest_sessionfinish(session: pytest.Session) -> None:
    root = session.config.stash.get(_OWNED, None)
    if root is None:
        return
    left = [f"process {pid}: {command}" for pid, command in leftovers.processes_of(root).items()]
    for runtime in [root / "r", *root.glob("r[0-9]*")]:
        left += leftovers.files_of(runtime)
    mine = {name for name in leftovers.segments() - session.config.stash[_SEGMENTS] if not _in_use(name)}
    left += [f"shared memory {name}" for name in sorted(mine)]
    if left:
        print("\nleft behind by this run of the tests:", *left, sep="\n  ", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    if root := config.stash.get(_OWNED, None):
        shutil.rmtree(root, ignore_errors=True)


_OWNED = pytest.StashKey[Path]()
_SEGMENTS = pytest.StashKey[AbstractSet[object]]()


@pytest.fixture(autouse=True)
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give this test a runtime directory; afterwards everything that ran there must be gone."""
    root = Path(os.environ["STOKER_TEST_ROOT"])
    place = root / f"r{os.getpid() % 100_000}{_next_number():05d}"
    monkeypatch.setenv("STOKER_RUNTIME_DIR", str(place))
    yield place
    _close_session(place)
    if place.exists():
        _check_nothing_left(place)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Have a PostgreSQL of this run's own, started for the first test that wants it."""
    from tests.postgres import running  # its driver is for those tests alone

    with running() as server:
        yield server


@pytest.fixture
def schema(postgres: PostgresServer) -> Iterator[str]:
    """Return the name of a schema that no other test has; what is made there is dropped."""
    from tests.postgres import drop_schema, fresh_schema

    name = fresh_schema()
    yield name
    drop_schema(postgres, name)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this test a home that no other test has: its own deployments, calls and environments."""
    home = tmp_path / "home"
    monkeypatch.setenv("STOKER_HOME", str(home))
    return home


_numbers = iter(range(100_000))


def _next_number() -> int:
    return next(_numbers)


def _close_session(place: Path) -> None:
    """Close the session that a test left open in this process; without this its server would live as long as we do."""
    module = sys.modules.get("stoker.client.session")
    session = module.current_if_open() if module is not None else None
    if module is not None and session is not None and session.endpoint.path.startswith(f"{place}/"):
        module.close(session)


def _check_nothing_left(place: Path) -> None:
    try:
        wait_until(
            lambda: not leftovers.of(place), timeout=GRACE_SECONDS, message="everything the test started is gone"
        )
    except AssertionError:
        left = leftovers.of(place)
        for pid in leftovers.processes_of(place):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        pytest.fail("left behind by this test:\n  " + "\n  ".join(left), pytrace=False)


def _in_use(segments: str) -> bool:
    """Tell whether a process that lives names this server: it is another run's, which goes on beside us."""
    run_id = segments.split("-", 2)[2]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and run_id.encode() in (entry / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return run_id.startswith(("server-", "node-"))  # no command line names it; each test looks for its own

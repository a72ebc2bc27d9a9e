"""A persistent server of a module's own, with an app deployed to it, as its users have it; and requests to it."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from stoker.transport.sockets import connect_unix, greet
from tests.server.harness import Peer

STOKER = (sys.executable, "-m", "stoker.cli")
SECONDS = 60.0


@dataclass(frozen=True)
class Serving:
    """Where the server is, and a token for it."""

    url: str
    token: str
    env: dict[str, str]
    root: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def runtime(self) -> Path:
        return Path(self.env["STOKER_RUNTIME_DIR"])

    def client(self, **headers: str) -> httpx.Client:
        """Return a client that shows the token."""
        return httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {self.token}", **headers}, timeout=SECONDS
        )

    def deploy(self, source: str, name: str) -> str:
        """Deploy a program; return what was printed."""
        file = self.root / f"{name}.py"
        file.write_text(source)
        return self.stoker("deploy", str(file))

    def ask(self, verb: str, **params: Any) -> Any:
        """Ask the server as the command line does, without starting that."""
        peer = Peer(connect_unix(str(self.runtime / "server" / "server.sock"), timeout=SECONDS))
        try:
            greet(peer.frames, role="client", name=f"tests-{secrets.token_hex(4)}", token="")
            return peer.ask(verb, **params)
        finally:
            peer.close()

    def stoker(self, *arguments: str) -> str:
        return self._run(*STOKER, *arguments)

    def run_program(self, file: Path) -> str:
        """Run a program that uses the server; return what it printed."""
        return self._run(sys.executable, str(file))

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, cwd=self.root, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        return done.stdout


@contextmanager
def serving(**settings: str) -> Iterator[Serving]:
    """Have a server that nobody else uses; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="sv", dir=os.environ["STOKER_TEST_ROOT"], ignore_cleanup_errors=True) as at:
        root = Path(at)
        env = {
            **os.environ,
            "STOKER_HOME": str(root / "h"),
            "STOKER_RUNTIME_DIR": str(root / "r"),
            "STOKER_HTTP": "127.0.0.1:0",
            **settings,
        }
        started = Serving("", "", env, root)
        try:
            said = started.stoker("server", "start")
            found = re.search(r"https?://\S+", said)
            assert found is not None, said
            token = started.stoker("tokens", "create", "tests", "--json")
            yield Serving(found[0], re.findall(r"stoker-[0-9a-f]{8}-[\w-]+", token)[0], env, root)
        finally:
            started.stoker("server", "stop")

"""A server and nodes on machines of their own, without Ray: the cluster is a file, agents are plain processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stoker.client import session as sessions
from tests.machines.running import ROOT, Machine, Machines
from tests.nodes.process_cluster import NODES
from tests.waiting import wait_until

PORT = 7411
START_SECONDS = 60.0


class Cluster:
    """A server on ``head`` of these machines, and this process a program on ``laptop``. ``place`` is shared by all."""

    def __init__(self, made: Machines, place: Path, *, lease: str) -> None:
        self._machines = made
        self.place = place
        self.head = made["head"]
        self.head.env.update(
            STOKER_HOME=str(place / "home"),
            STOKER_RUNTIME_DIR=str(place / "r"),
            STOKER_ENGINE="ray",
            STOKER_LISTEN=f"0.0.0.0:{PORT}",
            STOKER_NODE_LEASE=lease,
            STOKER_TEST_NODES=str(place),
            PYTHONPATH=str(ROOT),
        )

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def start(self) -> None:
        """Start the server and return when it listens."""
        ready, ready_out = os.pipe()
        try:
            words = ["python", "-m", "tests.nodes.server", "--persistent", "--ready-fd", str(ready_out)]
            self.head.start(*words, output=self.place / "server.log", fds=(ready_out,))
        finally:
            os.close(ready_out)
        with os.fdopen(ready, "rb") as pipe:
            answer = json.loads(pipe.readline() or b'{"error": "it ended"}')
        assert "error" not in answer, f"{answer}\n{(self.place / 'server.log').read_text()}"

    def have(self, *names: str, cpus: int = 2) -> None:
        """Have these nodes in the cluster and no others, each on its machine, and wait until they have joined."""
        nodes = {
            name: {
                "cpus": cpus,
                "address": self[name].address,
                "server": f"stoker://{self.head.address}:{PORT}",
                "prefix": self.prefix(name),
            }
            for name in names
        }
        draft = self.place / "nodes.new"
        draft.write_text(json.dumps(nodes))
        draft.replace(self.place / NODES)

    def prefix(self, name: str) -> list[str]:
        """Return what runs a command of the head's on another machine."""
        return ["nsenter", "-t", str(self[name].keeper_pid), "--net", "--mount", "--uts", "--ipc"]

    def up(self) -> set[str]:
        return {node["id"] for node in self.status()["nodes"]}

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.head.run("stoker", "server", "status", "--json").stdout)
        return found

    def wait_for(self, *names: str) -> None:
        wait_until(lambda: self.up() == set(names), timeout=START_SECONDS, message=f"the nodes {names} are up")

    def connect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have programs of this process use the server over the network."""
        door = next(door for door in self.status()["doors"] if door["kind"] == "tcp")
        token = self.head.run("stoker", "tokens", "create", "tests").stdout.strip()
        monkeypatch.setenv("STOKER_SERVER", f"stoker://{self.head.address}:{PORT}")
        monkeypatch.setenv("STOKER_TOKEN", token)
        monkeypatch.setenv("STOKER_FINGERPRINT", door["fingerprint"])
        sessions.close()

    def lines(self, name: str) -> list[str]:
        """Return what runs have written down."""
        path = self.place / name
        return path.read_text().split() if path.exists() else []

    def wait_for_lines(self, name: str, count: int) -> list[str]:
        wait_until(
            lambda: len(self.lines(name)) >= count,
            timeout=START_SECONDS,
            message=f"{count} lines in {name}",
        )
        return self.lines(name)

    def open_gate(self) -> None:
        (self.place / "gate").touch()

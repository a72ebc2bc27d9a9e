"""What a server may ask an agent besides starting and stopping workers: one function for each verb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stoker.engine.local.log_files import LogQuery, read_logs
from stoker.errors import InvalidRequest
from stoker.images.environment import Listed, list_environments, lock_text, prune

Params = dict[str, Any]


class Verbs:
    """The verbs that only read or clean this node's disk; each blocks, and runs in a thread."""

    def __init__(self, *, environments: Path, logs: Path, inventory: Callable[[], Params] = dict) -> None:
        self._environments = environments
        self._logs = logs
        self._inventory = inventory
        self._verbs: dict[str, Callable[[Params], Any]] = {
            "images": self._list_images,
            "image_lock": self._image_lock,
            "image_prune": self._image_prune,
            "logs": self._read_logs,
            "inventory": lambda _: self._inventory(),
        }

    def run(self, verb: str, params: Params) -> Any:
        """Answer a request.

        Raises:
            InvalidRequest: there is no such verb.
            StokerError: what the verb raises.
        """
        handler = self._verbs.get(verb)
        if handler is None:
            raise InvalidRequest(f"An agent knows no request {verb!r}, only: {', '.join(sorted(self._verbs))}.")
        return handler(params)

    def _list_images(self, _: Params) -> list[Params]:
        return [_described(item) for item in list_environments(self._environments)]

    def _image_lock(self, params: Params) -> str:
        return lock_text(self._environments, str(params.get("key", "")))

    def _image_prune(self, params: Params) -> list[Params]:
        removed = prune(
            self._environments,
            older_than=float(params.get("older_than", 0.0)),
            keep=[str(key) for key in params.get("keep", [])],
            locks=bool(params.get("locks", False)),
            dry_run=bool(params.get("dry_run", False)),
        )
        return [asdict(environment) for environment in removed]

    def _read_logs(self, params: Params) -> list[Params]:
        return read_logs(self._logs, LogQuery.of(params))


def _described(item: Listed) -> Params:
    environment = item.environment
    return {
        **asdict(environment),
        "packages": environment.packages,
        "last_used": item.last_used,
        "in_use": item.in_use,
    }

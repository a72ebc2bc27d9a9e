"""A cluster that says that it is of another version."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


class told_version:
    """Have a cluster say that it is of another version, for a while."""

    def __init__(self, address: str, **versions: str) -> None:
        self._address = address
        self._versions = {name: version for name, version in versions.items() if version}
        self._before: dict[str, Any] = {}

    def __enter__(self) -> dict[str, str]:
        self._before = self._tell(self._versions)
        return {name: self._before[name] for name in ("ray_version", "python_version")}

    def __exit__(self, *error: object) -> None:
        self._tell(self._before)

    def _tell(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Change what the head has noted, and return what it was; in a process of its own, as Ray stays in one."""
        done = subprocess.run(
            [sys.executable, "-c", _TELL, self._address, json.dumps(changes)],
            check=True,
            capture_output=True,
            text=True,
        )
        before: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return before


_TELL = """
import json, sys
from ray._raylet import GcsClient
head = GcsClient(address=sys.argv[1])
before = json.loads(head.internal_kv_get(b"CLUSTER_METADATA", b"cluster"))
head.internal_kv_put(b"CLUSTER_METADATA", json.dumps({**before, **json.loads(sys.argv[2])}).encode(), True, b"cluster")
print(json.dumps(before))
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.faults.running import PersistentServer


def test_a_server_whose_calls_may_run_on_a_cluster_is_not_started_on_this_machine(
    own_home: Path, runtime_dir: Path
) -> None:
    """As by somebody who forgot ``--engine ray``: what runs there would run here, too."""
    state = own_home / "server"
    state.mkdir(parents=True)
    os.chmod(state, 0o700)  # noqa: PTH101
    (state / "ray-nodes.json").write_text('["n1"]')
    server = PersistentServer()
    answer = server.start()
    assert "--engine ray" in str(answer["error"]) and "ray-nodes.json" in str(answer["error"])
    server.stop()
    (state / "ray-nodes.json").unlink()
    assert "error" not in server.start()
    server.stop()

"""``python -m tests.nodes.server --persistent …``: a server whose cluster is the file in ``STOKER_TEST_NODES``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stoker.engine.base import Engine
from stoker.engine.ray.engine import RayEngine
from stoker.server import __main__ as program
from stoker.server.config import ServerConfig
from tests.nodes.process_cluster import ProcessCluster


def engine_of(config: ServerConfig, identity: str = "") -> Engine:
    cluster = ProcessCluster(Path(os.environ["STOKER_TEST_NODES"]))
    return RayEngine(cluster, state_dir=config.state_dir, lease=config.node_lease)


if __name__ == "__main__":
    program._engine = engine_of
    sys.exit(program.main())

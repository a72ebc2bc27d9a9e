"""``python -m tests.on_ray.gpu_server --persistent …``: a server whose workers hold as many GPUs as cores.

Functions cannot ask for GPUs yet; the engine can.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from stoker.engine.base import Bundle, Grant
from stoker.engine.ray import engine
from stoker.server import __main__ as program


class WithGpus(engine.RayEngine):
    def reserve(self, bundles: list[Bundle]) -> list[Grant] | None:
        return super().reserve([replace(bundle, gpus=bundle.cpus) for bundle in bundles])


if __name__ == "__main__":
    engine.RayEngine = WithGpus  # type: ignore[misc]
    sys.exit(program.main())

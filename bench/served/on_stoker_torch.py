"""A class whose snapshot has torch and a model, on Stoker: ``python -m bench.served.on_stoker_torch WHAT PORT``."""

from __future__ import annotations

import os
import sys

import torch

import stoker
from bench import persistent
from bench.served import work

FEATURES = 512
app = stoker.App("bench")


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(FEATURES, FEATURES), torch.nn.ReLU(), torch.nn.Linear(FEATURES, 10))


@app.cls(max_workers=1, idle_timeout=0.1)
class Model:
    @stoker.enter(snapshot=True)
    def load(self) -> None:
        self.network = network()

    @stoker.endpoint(requires_token=False)
    @stoker.method()
    def label(self, x: float) -> dict[str, int]:
        """Return the class of a row, and which process has found it."""
        with torch.inference_mode():
            found = self.network(torch.full((1, FEATURES), x))
        return {"label": int(found.argmax()), "pid": os.getpid()}


def main() -> None:
    variables = {**os.environ, "STOKER_HTTP": f"127.0.0.1:{sys.argv[2]}"}
    with persistent.server(variables):
        persistent.stoker(variables, "deploy", __file__)
        work.until_told()


if __name__ == "__main__":
    main()

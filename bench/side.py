"""One side of a comparison, in a process of its own: ``python -m bench.side bench.sides.on_stoker:round_trip``.

It sets the stage, says that it is ready, then answers each line of JSON on stdin, the keywords of a turn, with the
figures of that turn. What the work prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import contextmanager


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, name = sys.argv[1].split(":")
    stage = contextmanager(getattr(importlib.import_module(module), name))
    with stage() as turn:
        answers.write(json.dumps({}) + "\n")
        for line in sys.stdin:
            answers.write(json.dumps(turn(**json.loads(line))) + "\n")


if __name__ == "__main__":
    main()

"""The program that a `run_function` step runs, inside the environment: its interpreter is the user's.

Its text is given to ``python -c``, so it may use only the standard library of Python 3.10, and Stoker's worker path.
Its one argument is JSON: ``sys_path`` (before the interpreter's own), ``worker_path`` (after it), and either ``module``
and ``qualname`` or ``pickle``, a file.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def load(request: dict[str, Any]) -> Any:
    """Return the function that is asked for."""
    if request["pickle"]:
        cloudpickle = importlib.import_module("cloudpickle")
        return cloudpickle.loads(Path(request["pickle"]).read_bytes())
    current = importlib.import_module("stoker.transport.current")  # now that it is on the path
    with current.loading(request["qualname"]):  # what the module declares of images is not looked for here
        found: Any = importlib.import_module(request["module"])
    for name in request["qualname"].split("."):
        found = getattr(found, name)
    return found


def main() -> None:
    request = json.loads(sys.argv[1])
    sys.argv[1:] = []
    sys.path[0:1] = request["sys_path"]
    sys.path.append(request["worker_path"])
    load(request)()


if __name__ == "__main__":
    main()

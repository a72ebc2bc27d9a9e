"""A program in place of the agent: it takes an agent's options, notes itself, starts a child, and waits for its pipe.

What it does is chosen by its server's address: ``…/stubborn`` ignores the end of its pipe, ``…/brief`` ends at once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("server", "node", "mode", "grace", "run-dir", "state-dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--until-stdin-closes", action="store_true", required=True)
    given = parser.parse_args()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    variables = {name: value for name, value in os.environ.items() if name.startswith(("STOKER_", "CUDA_", "RAY_"))}
    note = {**vars(given), "pid": os.getpid(), "child": child.pid, "environment": variables}
    path = Path(given.state_dir) / "note.json"
    path.with_suffix(".new").write_text(json.dumps(note))
    path.with_suffix(".new").rename(path)
    if given.server.endswith("/brief"):
        print("no server answers, and the grace is over", flush=True)
        sys.exit(3)
    sys.stdin.read()
    while given.server.endswith("/stubborn"):
        time.sleep(1)
    child.kill()
    child.wait()


if __name__ == "__main__":
    main()

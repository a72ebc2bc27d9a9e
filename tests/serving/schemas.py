"""Schemathesis against an app's OpenAPI page: endpoints are asked for what it says, and for what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.serving.running import Serving

EXAMPLES = 3  # random requests of each endpoint, besides one for each rule of its page
SEED = 7  # so that a failure comes again


def check_page(served: Serving, app: str, place: Path, *, config: str = "", but: tuple[str, ...] = ()) -> str:
    """Fail where an answer is a 5xx, or is not what the page says; where what it forbids is taken, or what it allows is
    refused. ``but`` are operations that are left out; ``config`` is of Schemathesis, in TOML. Return what it printed.
    """
    (place / "schemathesis.toml").write_text(config)
    left_out = [f"--exclude-operation-id={name}" for name in but]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(place / "schemathesis.toml")),
            *("run", f"{served.url}/{app}/openapi.json", "--header", f"Authorization: Bearer {served.token}"),
            *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", str(SEED), "--no-shrink"),
            *(
                "--continue-on-failure",
                "--suppress-health-check",
                "all",
                "--warnings",
                "off",
                "--no-color",
                "--workers",
                "1",  # two threads that parse Python at once meet a fault of CPython 3.11 in its AST
                *left_out,
            ),
        ],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

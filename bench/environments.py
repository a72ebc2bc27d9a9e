"""The environments of the peers, made on demand under ``bench/.envs``, and a scratch place for each measurement."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / "bench" / ".envs"
REQUIREMENTS = {
    "ray": ["ray", "numpy"],
    "torch": ["torch==2.13.0", "numpy", "-e", "."],
    "uvicorn": ["uvicorn[standard]", "starlette", "numpy"],
    "fastapi": ["uvicorn[standard]", "fastapi", "numpy", "-e", "."],
    "ray_serve": ["ray[serve]", "numpy"],
    "bentoml": ["bentoml", "numpy"],
    "litserve": ["litserve", "numpy"],
}
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_LOG_TO_STDERR": "0",
    "PYTHONWARNINGS": "ignore",
    "NO_COLOR": "1",
}


def python_of(name: str) -> str:
    """Return the interpreter of an environment: ``stoker`` is the one that runs the bench, others are made once."""
    if name == "stoker":
        return sys.executable
    directory = ENVIRONMENTS / name
    python, ready = directory / "bin" / "python", directory / ".ready"
    stamp = "\n".join(REQUIREMENTS[name])
    if not ready.is_file() or ready.read_text() != stamp:
        print(f"making {directory.relative_to(ROOT)}", file=sys.stderr)
        shutil.rmtree(directory, ignore_errors=True)
        _uv("venv", "--quiet", "--python", sys.executable, str(directory))
        _uv("pip", "install", "--quiet", "--python", str(python), *REQUIREMENTS[name])
        ready.write_text(stamp)
    return str(python)


def version_of(name: str, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python_of(name), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def scratch() -> Iterator[dict[str, str]]:
    """Yield the environment variables of one measurement: a home of its own, under a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as directory:
        yield {
            **os.environ,
            **QUIET,
            "STOKER_HOME": f"{directory}/home",
            "STOKER_RUNTIME_DIR": f"{directory}/run",
            "BENCH_SCRATCH": directory,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        }


def _uv(*arguments: str) -> None:
    import uv

    environment = dict(os.environ)
    if links := environment.get("PIP_FIND_LINKS"):  # uv does not look into pip's configuration
        environment.setdefault("UV_FIND_LINKS", links)
    subprocess.run([uv.find_uv_bin(), *arguments], check=True, env=environment, cwd=ROOT)

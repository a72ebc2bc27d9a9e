"""Thread pools of native libraries: one thread in a zygote, the grant's cores in a worker.

A pool that has run with more threads hangs a forked child in its next parallel region; one that was told one thread
before its library was loaded starts no thread at all, and its forked child may raise it.
"""

from __future__ import annotations

import math
import os
import sys
from typing import Any

from stoker.protocol.zygotes import THREAD_VARIABLES

_NATIVE = ("numpy", "scipy", "sklearn", "torch", "numexpr", "cv2", "faiss", "lightgbm", "xgboost")

_controller: Any = None


def hold_to_one_thread() -> None:
    """Give every library that is loaded from now on one thread."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))


def find_pools() -> None:
    """Look for loaded pools, in the zygote: the search through all loaded libraries is then made once."""
    global _controller
    if sys.modules.keys().isdisjoint(_NATIVE):
        return
    try:
        import threadpoolctl
    except ImportError:
        return
    _controller = threadpoolctl.ThreadpoolController()


def thread_count(cpus: float) -> int:
    return max(1, math.ceil(cpus))


def thread_environment(cpus: float, *, chosen: dict[str, str], inherited: dict[str, str]) -> dict[str, str]:
    """Return the thread variables of a worker: the user's own choice, what the agent had, else the cores it holds."""
    own = str(thread_count(cpus))
    return {name: chosen.get(name) or inherited.get(name) or own for name in THREAD_VARIABLES}


def raise_pools(environment: dict[str, str], cpus: float) -> None:
    """Raise the loaded pools. OpenMP counts per thread, so each thread that runs user code calls this once."""
    limits = {name: _number(environment.get(name, "")) or thread_count(cpus) for name in THREAD_VARIABLES}
    omp = limits["OMP_NUM_THREADS"]
    by_prefix = {"libopenblas": limits["OPENBLAS_NUM_THREADS"], "libblis": limits["BLIS_NUM_THREADS"]}
    for library in getattr(_controller, "lib_controllers", ()):
        is_mkl = getattr(library, "internal_api", "") == "mkl"
        count = limits["MKL_NUM_THREADS"] if is_mkl else by_prefix.get(getattr(library, "prefix", ""), omp)
        if count > 1:
            library.set_num_threads(count)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(omp)
    numexpr = sys.modules.get("numexpr")
    if numexpr is not None and hasattr(numexpr, "set_num_threads"):
        numexpr.set_num_threads(limits["NUMEXPR_NUM_THREADS"])


def _number(text: str) -> int:
    first = text.partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else 0

"""The lines of a table: what Stoker took, what its peer took, and the floor between them."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.environments import ROOT

RESULTS = ROOT / "bench" / "results"


@dataclass(frozen=True)
class Line:
    """One figure beside its peer's.

    ``better`` is ``lower`` or ``higher``. A floor is either ``factor``, how many times better than the peer Stoker must
    be, or ``bound``, which its own figure must not be worse than.
    """

    what: str
    unit: str
    stoker: float
    better: str = "lower"
    peer: str = ""
    theirs: float | None = None
    factor: float | None = None
    bound: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer."""
        if self.theirs is None:
            return None
        over, under = (self.theirs, self.stoker) if self.better == "lower" else (self.stoker, self.theirs)
        return over / under if under else float("inf")

    @property
    def met(self) -> bool | None:
        if self.factor is not None:
            return self.ratio is not None and self.ratio >= self.factor
        if self.bound is not None:
            return self.stoker <= self.bound if self.better == "lower" else self.stoker >= self.bound
        return None

    @property
    def floor(self) -> str:
        if self.factor is not None:
            return f"{self.factor:.3g}x {self.peer}"
        if self.bound is not None:
            return f"{'≤' if self.better == 'lower' else '≥'} {shown(self.bound, self.unit)}"
        return ""

    def cells(self) -> list[str]:
        """Return the line's columns, as `HEADINGS` names them."""
        return [
            self.what,
            shown(self.stoker, self.unit),
            f"{self.peer}: {shown(self.theirs, self.unit)}" if self.theirs is not None else "",
            _times(self.ratio),
            self.floor,
            {True: "yes", False: "**no**", None: ""}[self.met],
        ]


def _times(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.2f}x" if math.isfinite(ratio) else "peer: none"


HEADINGS = ["what", "Stoker", "peer", "times better", "floor", "met"]


def shown(value: float, unit: str) -> str:
    if value >= 1000:
        text = f"{value:,.0f}".replace(",", " ")
    else:
        text = f"{value:.3g}"
    return f"{text} {unit}".replace(" /s", "/s")


def machine() -> dict[str, Any]:
    """Describe the machine, and how busy it was."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / (1 << 30)),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def write(row: str, title: str, lines: list[Line], described: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    rows = [{**asdict(line), "ratio": line.ratio, "met": line.met} for line in lines]
    found = {"row": row, "title": title, "measured": time.strftime("%Y-%m-%d"), "machine": described, "lines": rows}
    (RESULTS / f"{row}.json").write_text(json.dumps(found, indent=2) + "\n")


def read(row: str) -> dict[str, Any] | None:
    """Return what was measured last, its ``lines`` as `Line` objects; None where nothing was."""
    try:
        found: dict[str, Any] = json.loads((RESULTS / f"{row}.json").read_text())
    except OSError:
        return None
    names = {"ratio", "met"}
    found["lines"] = [Line(**{k: v for k, v in line.items() if k not in names}) for line in found["lines"]]
    return found


def print_lines(title: str, lines: list[Line]) -> None:
    rows = [HEADINGS, *(line.cells() for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

"""Draw goodput against offered load, of all sides, from what `bench.serve_overload` has kept: ``docs/overload.svg``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

from bench.environments import ROOT
from bench.http_servers import NAMES
from bench.serve_overload import CURVES, TIMES

PICTURE = ROOT / "docs" / "overload.svg"
WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 690, 44, 340
TOP_PERCENT = 110.0
CHARACTER_WIDTH = 8
COLOURS = {
    "stoker": "#c2410c",
    "uvicorn": "#64748b",
    "ray_serve": "#0369a1",
    "bentoml": "#15803d",
    "litserve": "#7e22ce",
}


def write() -> None:
    """Draw what was measured last; nothing where nothing was."""
    try:
        curves = json.loads(CURVES.read_text())
    except OSError:
        return
    PICTURE.write_text("\n".join(_picture(curves)) + "\n")


def _picture(curves: dict[str, Any]) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" fill="#334155">'
    )
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    yield f'<text x="{LEFT}" y="22" font-weight="bold">Answered within 500 ms, in percent of capacity</text>'
    for percent in (0, 25, 50, 75, 100):
        y = _y(percent)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}" stroke="#e2e8f0"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>'
    for times in TIMES:
        yield f'<text x="{_x(times):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{times:g}x</text>'
    middle = (LEFT + RIGHT) / 2
    yield f'<text x="{middle:.1f}" y="{BOTTOM + 40}" text-anchor="middle">offered, in times of capacity</text>'
    at = LEFT
    for side, found in curves.items():
        yield from _curve(side, found, at)
        at += 40 + CHARACTER_WIDTH * len(NAMES[side])
    yield "</svg>"


def _curve(side: str, found: dict[str, Any], at: int) -> Iterator[str]:
    points = [(_x(one["times"]), _y(100 * one["goodput"] / found["capacity"])) for one in found["loads"]]
    width = 3.5 if side == "stoker" else 2
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{COLOURS[side]}" stroke-width="{width}"/>'
    for x, y in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width + 0.5}" fill="{COLOURS[side]}"/>'
    yield f'<rect x="{at}" y="{HEIGHT - 14}" width="14" height="4" fill="{COLOURS[side]}"/>'
    yield f'<text x="{at + 20}" y="{HEIGHT - 8}">{escape(NAMES[side])}</text>'


def _x(times: float) -> float:
    """Return where a load stands: each doubling is as wide."""
    first, last = math.log(TIMES[0]), math.log(TIMES[-1])
    return LEFT + 24 + (RIGHT - LEFT - 48) * (math.log(times) - first) / (last - first)


def _y(percent: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * min(percent, TOP_PERCENT) / TOP_PERCENT

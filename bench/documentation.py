"""Write the kept results into ``docs/benchmarks.md``, between its two marks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench import report
from bench.environments import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- python -m bench --write-docs: begin -->"
END = "<!-- python -m bench --write-docs: end -->"


def write(rows: Iterable[str]) -> None:
    """Replace what stands between the marks by the tables of the rows that were measured."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    found = [result for row in rows if (result := report.read(row)) is not None]
    tables = "\n".join(_table(result) for result in found)
    PAGE.write_text(f"{before}{BEGIN}\n{_machine(found)}{tables}{END}{after}")


def _machine(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    m = found[-1]["machine"]
    dates = sorted({result["measured"] for result in found})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"Measured {when} on {m['cores']} cores ({m['processor']}, {m['architecture']}), {m['memory_gib']} GiB, "
        f"Linux {m['kernel']}, Python {m['python']}.\n\n"
    )


def _table(result: dict[str, Any]) -> str:
    rows = [report.HEADINGS, ["---"] * len(report.HEADINGS), *(line.cells() for line in result["lines"])]
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"### {result['title']}\n`bench/{result['row']}.py`\n\n{body}\n\n"

"""Write the kept results into ``docs/benchmarks.md``, between its two marks; what was not measured again stays."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from bench import report
from bench.environments import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- python -m bench --write-docs: begin -->"
END = "<!-- python -m bench --write-docs: end -->"
_SECTION = re.compile(r"^### [^\n]*\n`bench/(\w+)\.py`.*?(?=^### |\Z)", re.MULTILINE | re.DOTALL)


def write(rows: Iterable[str]) -> None:
    """Put the tables of the rows that were measured between the marks, in place of older ones of the same rows."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    written, _, after = rest.partition(END)
    older = {found[1]: found[0].strip() for found in _SECTION.finditer(written)}
    tables = [_table(result) if (result := report.read(row)) is not None else older.get(row, "") for row in rows]
    body = "\n\n".join(table for table in tables if table)
    PAGE.write_text(f"{before}{BEGIN}\n{body}\n\n{END}{after}")


def _table(result: dict[str, Any]) -> str:
    rows = [report.HEADINGS, ["---"] * len(report.HEADINGS), *(line.cells() for line in result["lines"])]
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    m = result["machine"]
    where = (
        f"{result['measured']}, {m['cores']} cores ({m['processor']}, {m['architecture']}), {m['memory_gib']} GiB, "
        f"Linux {m['kernel']}, Python {m['python']}"
    )
    return f"### {result['title']}\n`bench/{result['row']}.py` · {where}\n\n{body}"

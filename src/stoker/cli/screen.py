"""What commands print: tables for people, JSON for programs, one line for an error."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

from stoker.quantities import format_duration, format_size

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 100_000  # characters: programs read lines, and nothing is to be cut or broken for them
NONE = "-"
GAP = 3  # characters between two columns
FLEXIBLE_MIN = 12
WRAPPED_MIN = 24  # of a cell that goes on in the next line: in less it would be a tower
STATE_STYLES = {
    "running": "cyan",
    "busy": "cyan",
    "succeeded": "green",
    "idle": "green",
    "failed": "red",
    "refused": "red",
    "cancelled": "yellow",
    "backoff": "yellow",
    "unhealthy": "red",
    "outgoing": "yellow",
}


@dataclass(frozen=True)
class Column:
    """``of`` gives a row's cell.

    Where the screen is too narrow, cells of ``flexible`` columns are cut short, or with ``wraps`` go on in the next
    line; then whole columns are left out, that with the highest ``spare`` first. Those with 0 always stay. A ``name``,
    which people copy, is never cut: it goes on in the next line where nothing else is left to give way.
    """

    title: str
    of: Callable[[Mapping[str, Any]], str]
    right: bool = False
    flexible: bool = False
    wraps: bool = False
    name: bool = False
    style: str = ""
    spare: int = 0


def field(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return a cell that shows a row's value as it is; nothing for None."""
    return lambda row: "" if row.get(name) is None else str(row[name])


def count(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return a cell that shows a number, and a dash for none."""
    return lambda row: str(row[name]) if row.get(name) else NONE


def size(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: format_size(row[name]) if row.get(name) else NONE


def duration(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: format_duration(row[name]) if row.get(name) is not None else NONE


def since(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return a cell that shows how long ago a time was."""
    return lambda row: ago(row[name]) if row.get(name) else NONE


def ago(at: float, *, now: float | None = None) -> str:
    """Return how long ago a time (seconds since 1970) was: ``5 min 3 s ago``."""
    seconds = max(0.0, (time.time() if now is None else now) - at)
    if seconds < 1:
        return "just now"
    if seconds < 60:
        return f"{seconds:.0f} s ago"
    if seconds < 2 * 86400:
        return f"{format_duration(seconds)} ago"
    return f"{seconds / 86400:.0f} days ago"


def clock(at: float) -> str:
    """Return the time of day, to the millisecond."""
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}"


def date_and_clock(at: float) -> str:
    """Return the time of day, with the date before it where that is not today."""
    day = time.strftime("%Y-%m-%d ", time.localtime(at))
    return ("" if day == time.strftime("%Y-%m-%d ") else day) + clock(at)


def state(name: str) -> Callable[[Mapping[str, Any]], str]:
    def cell(row: Mapping[str, Any]) -> str:
        text = str(row.get(name, ""))
        style = STATE_STYLES.get(text)
        return f"[{style}]{text}[/{style}]" if style else text

    return cell


def console(stream: TextIO | None = None) -> Console:
    """Return a Rich console on stdout, as wide as the terminal, or wide enough where there is none."""
    from rich.console import Console

    out = stream or sys.stdout
    width = None if out.isatty() or "COLUMNS" in os.environ else WIDTH_WITHOUT_TERMINAL
    return Console(file=out, width=width, highlight=False, soft_wrap=False)


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, as_json: bool, empty: str) -> None:
    """Print rows as a table, or as JSON; ``empty`` says what to do where there are none."""
    if as_json:
        show_json(list(rows))
    elif not rows:
        say(empty)
    else:
        screen = console()
        made = table(rows, columns, width=screen.width)
        # What does not fit even so goes past the edge, where the terminal wraps it: half an id is worth nothing.
        _print(screen, made, width=max(screen.width, made.width or 0))


def _print(screen: Console, shown: Any, *, width: int | None = None) -> None:
    """Print a table; to a program without the blanks at the ends of its lines."""
    if screen.is_terminal:
        screen.print(shown, width=width, crop=False, soft_wrap=False)
        return
    with screen.capture() as captured:
        screen.print(shown, width=width, crop=False, soft_wrap=False)
    screen.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, width: int) -> Any:
    """Return a Rich table for a screen of ``width``: flexible columns are cut, the widest first, spare ones left out,
    and names go on in the next line.

    It is wider than that where the columns that always stay are.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[Text.from_markup(column.of(row)) for column in columns] for row in rows]
    needed = [max(len(c.title), *(row[i].cell_len for row in cells)) for i, c in enumerate(columns)]
    fitted = _fit(columns, needed, width)
    total = sum(fitted.values()) + GAP * (len(fitted) - 1)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1), width=total)
    for i, wide in fitted.items():
        column = columns[i]
        justify: Literal["left", "right"] = "right" if column.right else "left"
        goes_on = column.wraps or column.name
        made.add_column(
            column.title, justify=justify, no_wrap=not goes_on, overflow="fold", style=column.style, width=wide
        )
    for row in cells:
        for i, wide in fitted.items():
            if not columns[i].wraps and not columns[i].name:
                row[i].truncate(wide, overflow="ellipsis")
        made.add_row(*(row[i] for i in fitted))
    return made


def _fit(columns: Sequence[Column], needed: Sequence[int], width: int) -> dict[int, int]:
    """Return the columns to show, by their place, and how wide each is."""
    narrow = [
        min(n, max(WRAPPED_MIN if c.wraps else FLEXIBLE_MIN, len(c.title)))
        for c, n in zip(columns, needed, strict=True)
    ]
    least = [narrow[i] if column.flexible else needed[i] for i, column in enumerate(columns)]
    kept = list(range(len(columns)))
    for spare in sorted((i for i in kept if columns[i].spare), key=lambda i: -columns[i].spare):
        if sum(least[i] + GAP for i in kept) - GAP <= width:
            break
        kept.remove(spare)
    widths = {i: needed[i] for i in kept}
    _narrow(widths, least, width)
    _narrow(widths, [narrow[i] if column.name else least[i] for i, column in enumerate(columns)], width)
    return widths


def _narrow(widths: dict[int, int], least: Sequence[int], width: int) -> None:
    """Take from the widest columns until all fit, or none may get narrower."""
    while sum(widths.values()) + GAP * (len(widths) - 1) > width:
        wider = [i for i in widths if widths[i] > least[i]]
        if not wider:
            return
        widths[max(wider, key=lambda i: widths[i])] -= 1


def show_facts(facts: Mapping[str, str]) -> None:
    """Print names and values in two columns."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in facts.items():
        made.add_row(name, value)
    _print(console(), made)


def show_json(value: Any, stream: TextIO | None = None) -> None:
    """Print a value as JSON; what JSON does not know is shown as Python writes it."""
    print(json.dumps(value, indent=2, default=repr, ensure_ascii=False), file=stream)


def show_json_line(value: Any, stream: TextIO | None = None) -> None:
    """Print a value as one line of JSON, at once: one of several that come."""
    print(json.dumps(value, default=repr, ensure_ascii=False), file=stream, flush=True)


def say(text: str) -> None:
    """Print a sentence for people."""
    print(text)


def note(text: str) -> None:
    """Print a sentence beside what a command prints, for people, at once."""
    print(text, file=sys.stderr, flush=True)


def escape(text: str) -> str:
    """Return a text that Rich prints as it is."""
    from rich.markup import escape as escaped

    return escaped(text)


def fail(text: str) -> None:
    """Print an error: its first line red."""
    _complain("error", text, colour=31)


def warn(text: str) -> None:
    """Print a warning, beside what was done all the same: its first line yellow."""
    _complain("warning", text, colour=33)


def _complain(kind: str, text: str, *, colour: int) -> None:
    first, _, rest = text.partition("\n")
    line = f"{kind}: {first}"
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        line = f"\x1b[{colour}m{line}\x1b[0m"
    print(line, file=sys.stderr)
    if rest:
        print(rest, file=sys.stderr)
    sys.stderr.flush()

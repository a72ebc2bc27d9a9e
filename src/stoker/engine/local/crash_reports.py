"""What the interpreter prints when native code crashes (Python's `faulthandler`), as it is told to people.

It prints the stacks of all threads, the innermost call first, so that the user's own line stands above many of Stoker's
own, and the end of the output is none of theirs. Told are the stack that crashed, and of it the user's calls.
"""

from __future__ import annotations

import re

from stoker.engine.local.log_lines import Line

_BEGIN = "Fatal Python error: "
_OTHER = re.compile(r"Thread 0x[0-9a-f]+ .*\(most recent call first\):")
_OWN = re.compile(r'  File ".*/stoker/runner/\w+\.py", line \d+ in ')
_ASIDE = ("Extension modules: ", "Python runtime state: ")


def shortened(lines: list[Line], *, most: int) -> list[Line]:
    """Return the last of these lines, so many at most; of a crash, the beginning of what is told of it."""
    begin = next((at for at in range(len(lines) - 1, -1, -1) if lines[at].text.startswith(_BEGIN)), len(lines))
    report = _told(lines[begin:])[:most]
    before = most - len(report)
    return [*(lines[max(0, begin - before) : begin] if before else []), *report]


def _told(report: list[Line]) -> list[Line]:
    found: list[Line] = []
    is_other = False
    for line in report:
        is_frame = line.text.startswith("  ")
        if not is_frame:
            is_other = _OTHER.match(line.text) is not None
        if not (is_other or _OWN.match(line.text) or line.text.startswith(_ASIDE)):
            found.append(line)
    return found

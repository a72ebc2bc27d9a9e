"""The mark by which everything that a worker starts is known to its agent: see `stoker.engine.local.marks`.

A forked worker shows its zygote's environment to others, whatever it sets in its own: that is memory which the kernel
remembers the place of. So the worker writes over it, before any code of the user's runs. What it forks inherits that.
"""

from __future__ import annotations

ENV_START_FIELD = 49 - 2  # of /proc/self/stat, counted behind the name in parentheses


def show(name: str, value: str, *, blank: str) -> bool:
    """Write a value over the blank of a variable with which this process was started; False where it has none.

    Raises:
        OSError: the kernel does not let us.
    """
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - `pathlib` is not imported by all that mark themselves
        text = file.read()
    fields = text[text.rindex(b")") + 2 :].split()
    start, end = int(fields[ENV_START_FIELD]), int(fields[ENV_START_FIELD + 1])
    with open("/proc/self/mem", "r+b", buffering=0) as memory:  # noqa: PTH123
        memory.seek(start)
        at = memory.read(end - start).find(f"{name}={blank}\0".encode())
        if at < 0:
            return False
        memory.seek(start + at)
        memory.write(f"{name}={value.ljust(len(blank), blank[0])}".encode())
    return True

"""A function that holds the interpreter lock for as long as it is told, and counts how often it was begun."""

from __future__ import annotations

import ctypes
import sys
import tempfile
from pathlib import Path

import stoker

app = stoker.App("holds-the-lock")


@app.function()
def holds(seconds: int, note: str) -> int:
    with Path(note).open("a") as file:
        file.write("began\n")
    ctypes.PyDLL(None).sleep(seconds)  # unlike CDLL, PyDLL keeps the interpreter lock
    return seconds


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place, app.run(show_progress=False):
        note = Path(place) / "note"
        print("held it for", holds.remote(int(sys.argv[1]), str(note)), "s")
        print("began", note.read_text().count("began"), "time(s)")

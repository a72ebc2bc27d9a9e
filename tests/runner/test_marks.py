"""What a forked worker shows of itself to others, before it runs anything."""

from __future__ import annotations

import os
import subprocess
import sys

from stoker.protocol.zygotes import MARK_BLANK, WORKER_MARKER
from stoker.runner import marks

PROGRAM = """
import os
from stoker.runner import marks

def shown(name):
    items = open(f"/proc/{os.getpid()}/environ", "rb").read().split(b"\\0")
    return next(item.decode().partition("=")[2].rstrip("_") for item in items if item.startswith(name.encode() + b"="))

child = os.fork()
if not child:
    assert marks.show("STOKER_WORKER", "w1-7", blank="_" * 64)
    assert not marks.show("STOKER_WORKER", "w1-8", blank="_" * 64), "there is no blank any more"
    assert not marks.show("OTHER", "w1-7", blank="_" * 64)
    daemon = os.fork()
    os._exit(shown("STOKER_WORKER") != "w1-7" if not daemon else os.waitstatus_to_exitcode(os.waitpid(daemon, 0)[1]))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), repr(shown("STOKER_WORKER")))
"""


def test_a_fork_shows_its_own_name_and_so_does_what_it_forks() -> None:
    variables = {**os.environ, WORKER_MARKER: MARK_BLANK, "OTHER": "x"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0", "''"], run.stderr


def test_a_process_that_was_started_without_room_for_a_name_has_none() -> None:
    assert not marks.show("NOT_A_VARIABLE_OF_THIS_PROCESS", "w1-7", blank=MARK_BLANK)

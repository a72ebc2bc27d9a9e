"""What a process of the runner is told when it starts, and the figures that it goes by.

The documents themselves (`ZygoteConfig`, `Fork`, …) stand in `stoker.protocol.zygotes`, where the agent finds them too.
"""

from __future__ import annotations

FLUSH_SECONDS = 0.005  # no result waits longer for company
BATCH_MAX = 256  # results in one frame: past this a batch saves nothing more
PARTIAL_LINE_SECONDS = 0.1  # progress bars: a line without an end is shown this often
FIRST_ATTEMPT_SILENT_SECONDS = 10.0  # a forked worker that uses no CPU for so long in its first attempt may hang
RECONNECT_SECONDS = 0.1  # between tries to reach a server that went away
DEFAULT_CREDIT = 64  # items of a stream that need no `StreamCredit`
EXIT_SETUP = 70  # a worker could not set itself up; its log says why
EXIT_ENTER = 71  # an enter hook raised something; the server was told
EXIT_ABANDONED = 75  # the server stayed away past the grace
EXIT_STOPPED = 143  # ended by SIGTERM

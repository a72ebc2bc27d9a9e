"""A server's store in a process of its own: writes batch after batch and says, after each, what is durable.

``python -m tests.store.writer_process PATH``. One line on stdout: ``epoch N``; then for each batch that `write`
returned for ``done N``, N being its greatest seq; at last ``fenced``. Batch n accepts ten calls and settles the first
of the batch before it.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from stoker.errors import Fenced
from stoker.store.sqlite import SqliteStore
from tests.store.rows import accepted, settled

BATCH = 10


def main(path: Path) -> None:
    store = SqliteStore(path)
    first = store.last_seq() + 1
    epoch = store.begin_term()
    print("epoch", epoch, flush=True)
    try:
        for seq in itertools.count(first, BATCH):
            calls = [accepted(one, payload=payload(one)) for one in range(seq, seq + BATCH)]
            store.write(epoch, [*calls, settled(max(seq - BATCH, 1), payload=payload(seq))])
            print("done", seq + BATCH - 1, flush=True)
    except Fenced:
        print("fenced", flush=True)


def payload(seq: int) -> bytes:
    """What is kept under a seq can be told from its seq alone, torn or not."""
    return f"{seq}".encode() * 100


if __name__ == "__main__":
    main(Path(sys.argv[1]))

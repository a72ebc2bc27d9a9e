"""A user's script: starts a Dask cluster, says so, and holds it until it is ended (or ends, with ``end``)."""

from __future__ import annotations

import sys
import time

from tests.clusters import work

import stoker

if __name__ == "__main__":
    client = stoker.clusters.dask(workers=2, cpu=0.5)
    print("scratch", *client.run(work.scratch).values())
    print("ready", client.submit(work.square, 7).result(), flush=True)
    if "end" not in sys.argv:
        client.submit(time.sleep, 600).result()

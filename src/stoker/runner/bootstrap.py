"""The program that an agent starts: ``<python> -s <worker path>/stoker/runner/bootstrap.py <link fd>``.

It makes Stoker importable from the directory that this file is in, whatever Stoker the user's environment has, and
hands over. Nothing else may be imported before: libraries read how many threads they may start when they are loaded.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    here = os.path.abspath(__file__)  # noqa: PTH100 - the worker path is made of links, which must not be resolved
    worker_path = os.path.dirname(os.path.dirname(os.path.dirname(here)))  # noqa: PTH120
    # Python put this file's own directory first: its modules must not be taken for the user's.
    sys.path[:] = [worker_path, *(entry for entry in sys.path if entry != os.path.dirname(here))]  # noqa: PTH120
    link_fd = int(sys.argv[1])
    sys.argv[:] = [""]

    from stoker.runner import zygote

    sys.path[:] = [*sys.path[1:], worker_path]
    zygote.main(link_fd, worker_path)


if __name__ == "__main__":
    main()

"""A site of FastAPI as an ``asgi_app`` of Stoker: ``python -m bench.served.on_stoker_fastapi WHAT PORT``."""

from __future__ import annotations

import os
import sys
from typing import Any

import stoker
from bench import persistent
from bench.served import with_fastapi, work

app = stoker.App("bench")


@app.function(max_workers=1)
@stoker.asgi_app(requires_token=False)
def site() -> Any:
    return with_fastapi.site()


def main() -> None:
    variables = {**os.environ, "STOKER_HTTP": f"127.0.0.1:{sys.argv[2]}"}
    with persistent.server(variables):
        persistent.stoker(variables, "deploy", __file__)
        work.until_told()


if __name__ == "__main__":
    main()

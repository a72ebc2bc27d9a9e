"""A site of FastAPI under uvicorn alone: ``python -m bench.served.on_fastapi WHAT PORT``."""

from __future__ import annotations

import sys

from bench.served import on_uvicorn, with_fastapi


def main() -> None:
    on_uvicorn.serve(with_fastapi.site(), int(sys.argv[2]))


if __name__ == "__main__":
    main()

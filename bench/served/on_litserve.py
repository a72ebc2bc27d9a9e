"""LitServe, one worker: ``python -m bench.served.on_litserve WHAT PORT``. Defaults, but where a line says why."""

from __future__ import annotations

import sys
import threading
from typing import Any

import litserve

from bench.served import work


class Echo(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request) -> float:  # LitServe asks FastAPI for what it names
        return request["x"]

    def predict(self, x: float) -> dict[str, float]:
        return work.echo(x)

    def encode_response(self, output: dict[str, float]) -> dict[str, float]:
        return output


class Label(Echo):
    def decode_request(self, request) -> Any:
        return request["row"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, rows: list[Any]) -> list[int]:
        return work.labels(rows)

    def unbatch(self, output: list[int]) -> list[int]:
        return output

    def encode_response(self, output: int) -> int:
        return output


class Slow(Echo):
    def predict(self, x: float) -> dict[str, float]:
        return work.slow(x)


def made(what: str) -> litserve.LitAPI:
    if what == "label":
        return Label(max_batch_size=work.BATCH_MAX, batch_timeout=work.BATCH_SECONDS, api_path="/label")
    return (Echo if what == "echo" else Slow)(api_path=f"/{what}")


def main() -> None:
    what, port = sys.argv[1], int(sys.argv[2])
    server = litserve.LitServer(made(what), accelerator="cpu", timeout=0.5 if what == "slow" else 30)  # the deadline
    threading.Thread(target=_end_when_told, args=(server,), daemon=True).start()
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", access_log=False)


def _end_when_told(server: litserve.LitServer) -> None:
    import os
    import signal

    work.until_told()
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()

"""Call a persistent server's functions, wait until that server is gone, and end."""

import sys
import time
from pathlib import Path

import stoker
from stoker.client import goodbye

goodbye.CLEAN_UP_SECONDS = 3600.0  # for as long the end waits for a server that is there

app = stoker.App("goes")


@app.function()
def double(x: int) -> int:
    return 2 * x


@app.function()
def wait() -> None:
    time.sleep(600)


if __name__ == "__main__":
    gone = Path(sys.argv[1])
    with app.run():
        assert double.remote(21) == 42
        call = wait.spawn()
        print("called", flush=True)
        while not gone.exists():
            time.sleep(0.01)
        if "cancel" in sys.argv:
            call.cancel()

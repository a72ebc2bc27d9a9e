"""A map that goes on until somebody ends it."""

import sys
import time

import stoker

app = stoker.App("long")


@app.function
def nap(x: int) -> int:
    time.sleep(0.2)
    return x


if __name__ == "__main__":
    with app.run():
        print("began", nap.remote(-1))
        for _ in nap.map(range(100_000)):
            print("got", _)
            if "raise" in sys.argv:
                raise ValueError("in the main script")
            if "exit" in sys.argv:
                sys.exit(5)
            if "end" in sys.argv:
                break

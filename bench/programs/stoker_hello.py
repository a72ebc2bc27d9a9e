"""A whole program on Stoker: import, start, one result."""

import stoker

app = stoker.App("hello")


@app.function()
def double(x: int) -> int:
    return 2 * x


if __name__ == "__main__":
    with app.run():
        print("result", double.remote(21), flush=True)

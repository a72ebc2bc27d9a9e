"""A whole program on the standard library: import, start, one result."""

from concurrent.futures import ProcessPoolExecutor


def double(x: int) -> int:
    return 2 * x


if __name__ == "__main__":
    with ProcessPoolExecutor() as pool:
        print("result", pool.submit(double, 21).result(), flush=True)

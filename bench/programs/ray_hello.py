"""A whole program on Ray: import, start, one result."""

import ray


@ray.remote
def double(x: int) -> int:
    return 2 * x


if __name__ == "__main__":
    ray.init(logging_level="error", log_to_driver=False)
    print("result", ray.get(double.remote(21)), flush=True)
    ray.shutdown()

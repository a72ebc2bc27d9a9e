"""Sends and gets more than a small /dev/shm holds."""

import stoker

app = stoker.App("big")


@app.function
def double(data: bytearray) -> bytearray:
    return bytearray(data) + bytearray(data)


if __name__ == "__main__":
    with app.run():
        for _ in range(3):
            print(len(double.remote(bytearray(4 << 20))))
        print(sum(map(len, double.map([bytearray(4 << 20)] * 4))))

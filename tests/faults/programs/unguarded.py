"""A script that runs its app when it is imported: every worker would do the same."""

from __future__ import annotations

import stoker

app = stoker.App("unguarded")


@app.function()
def double(x: int) -> int:
    return 2 * x


with app.run():
    print(double.remote(21))

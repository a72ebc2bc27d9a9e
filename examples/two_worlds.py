"""One app, two functions whose environments exclude each other: NumPy 1.26 and NumPy 2.

    stoker run examples/two_worlds.py

The old world is on the oldest Python of this machine that there is a NumPy 1.26 for, the new one on the newest. Arrays,
scalars and structured arrays go from each to the other and arrive unchanged. This file itself needs no NumPy: what it
cannot open, it hands on.
"""

from __future__ import annotations

import platform
from typing import Any

import stoker

OLD_NUMPY = "numpy==1.26.4"
NEW_NUMPY = "numpy>=2,<3"
PYTHONS_OF_OLD_NUMPY = ("3.10", "3.11", "3.12")

app = stoker.App("two-worlds")


@app.function()
def old_world(received: dict[str, Any] | None = None) -> dict[str, Any]:
    """Check what the new world made, if anything, and return the same, made here."""
    return visit(received)


@app.function()
def new_world(received: dict[str, Any] | None = None) -> dict[str, Any]:
    """Check what the old world made, if anything, and return the same, made here."""
    return visit(received)


def visit(received: dict[str, Any] | None) -> dict[str, Any]:
    import numpy as np

    made = make()
    if received is None:
        print(f"NumPy {np.__version__} on Python {platform.python_version()} made {', '.join(made)}")
        return made
    for name, expected in made.items():
        found = received[name]
        if type(found) is not type(expected) or found.dtype != expected.dtype or not np.array_equal(found, expected):
            raise SystemError(f"{name}: {found!r} arrived where {expected!r} was sent")
    print(f"NumPy {np.__version__} on Python {platform.python_version()} received them all, unchanged")
    return made


def make() -> dict[str, Any]:
    """Return arrays, scalars and structured arrays; every NumPy makes the same ones."""
    import numpy as np

    grid = np.arange(12, dtype=np.float64).reshape(3, 4)
    readings = np.zeros(3, dtype=[("station", "U12"), ("celsius", "<f4"), ("at", "datetime64[s]")])
    readings["station"] = ["Säntis", "Zürich", "Davos"]
    readings["celsius"] = [-4.5, 11.25, 3.0]
    readings["at"] = np.datetime64("2026-01-01T12:00:00") + np.arange(3).astype("timedelta64[h]")
    return {
        "an array": grid,
        "one in Fortran's order": np.asfortranarray(grid + 0.5),
        "a view with steps": grid[:, ::2],
        "booleans": grid > 5,
        "complex numbers": grid.astype(np.complex64) * 1j,
        "texts": np.array(["Zürich", "東京", "x"]),
        "a scalar": np.float32(2.5),
        "a scalar in time": np.datetime64("2026-11-22"),
        "a structured array": readings,
        "one of its records": readings[1],
    }


def worlds() -> tuple[stoker.Image, stoker.Image]:
    """Return the two images. One Python with both NumPys serves where there is no other."""
    from stoker import paths
    from stoker.images.interpreters import Interpreters

    found = [
        ".".join(map(str, interpreter.numbers[:2]))
        for interpreter in Interpreters(paths.environments() / "interpreters.json").all()
    ]
    old = [version for version in found if version in PYTHONS_OF_OLD_NUMPY]
    if not old:
        wanted = ", ".join(PYTHONS_OF_OLD_NUMPY)
        raise SystemExit(
            f"NumPy 1.26 needs one of Python {wanted}; here are {', '.join(found)}: `uv python install 3.12`."
        )
    return stoker.Image.python(old[-1]).pip_install(OLD_NUMPY), stoker.Image.python(found[0]).pip_install(NEW_NUMPY)


@app.local_entrypoint()
def main() -> None:
    """Send values from the old world to the new one and back."""
    old_image, new_image = worlds()
    old, new = old_world.with_options(image=old_image), new_world.with_options(image=new_image)
    from_old = old.remote()
    from_new = new.remote(from_old)
    old.remote(from_new)
    print("Both directions: arrays, scalars and structured arrays arrived as they were sent.")

"""Objects that must survive the way between any two interpreters and any two NumPys; run as a script by either side.

``write DIR`` encodes each sample into a file of its name; ``check DIR`` decodes each file and compares it with what
this side makes of the same sample. Only the standard library, Stoker's codec and, where installed, NumPy are imported.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import sys
import uuid
from pathlib import Path
from typing import Any

from stoker.protocol.payload import RemoteValue, decode, decode_call, encode, encode_call

try:
    import numpy
except ModuleNotFoundError:
    HAS_NUMPY = False
else:
    HAS_NUMPY = True


def plain_samples() -> dict[str, Any]:
    shared = [1, 2]
    return {
        "atoms": (1, -(10**40), 2.5, "é\x93", b"\x93\x80", None, True, 1j),
        "containers": {"a": [1, (2, {3}), frozenset({4})], "shared": [shared, shared]},
        "stdlib": (
            datetime.datetime(2026, 11, 22, tzinfo=datetime.timezone.utc),
            decimal.Decimal("1.5"),
            uuid.UUID(int=7),
            collections.OrderedDict(a=1),
            range(5),
            Path("a") / "b",
        ),
        "long": b"x" * 3_000_000,
        "text": "long " * 100_000,
    }


def numpy_samples() -> dict[str, Any]:
    record = numpy.dtype([("a", "<i4"), ("b", ">f8"), ("c", "S5"), ("d", "<U3"), ("e", "u1", (2, 2))])
    aligned = numpy.dtype([("x", "u1"), ("y", "f8")], align=True)
    grid = numpy.arange(240_000, dtype="f8").reshape(400, 600)
    read_only = numpy.arange(1000)
    read_only.flags.writeable = False
    generator = numpy.random.default_rng(7)
    generator.random(3)
    state = numpy.random.RandomState(5)
    state.normal(size=3)
    return {
        "c_order": grid,
        "f_order": numpy.asfortranarray(grid),
        "strided": grid[::2, ::-3],
        "transposed": grid.T,
        "small": numpy.arange(6, dtype="i2").reshape(2, 3),
        "zero_d": numpy.array(3.5),
        "empty": numpy.zeros((0, 3), dtype="i8"),
        "read_only": read_only,
        "broadcast": numpy.broadcast_to(numpy.arange(3.0), (50, 3)),
        "big_endian": numpy.arange(500, dtype=">i4"),
        "structured": numpy.array([(1, 2.5, b"abc", "xyz", [[1, 2], [3, 4]])] * 40, dtype=record),
        "aligned": numpy.zeros(100, dtype=aligned),
        "datetimes": numpy.array(["2026-01-01", "NaT"] * 50, dtype="M8[ns]"),
        "timedeltas": numpy.arange(100).astype("m8[25s]"),
        "strings": numpy.array(["a", "ccc"] * 300),
        "objects": numpy.array([{"a": 1}, [2], None, grid[:2]], dtype=object),
        "record_array": numpy.rec.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")]),
        "matrix": numpy.asmatrix(numpy.eye(3)),
        "masked": numpy.ma.masked_array(numpy.arange(5.0), mask=[False, True, False, False, True]),
        "bools": numpy.array([True, False] * 500),
        "complex": numpy.array([1 + 2j] * 100, dtype="c8"),
        "scalars": [
            numpy.float64(1.5),
            numpy.float32(0.1),
            numpy.int64(7),
            numpy.uint8(255),
            numpy.bool_(True),
            numpy.str_("text"),
            numpy.bytes_(b"bytes"),
            numpy.datetime64("2026-11-22T10:00"),
            numpy.timedelta64(3, "D"),
            numpy.complex128(1j),
            numpy.str_(""),
            numpy.longdouble(1) / 3,
        ],
        "void": numpy.array([(1, 2.5, b"abc", "xyz", [[1, 2], [3, 4]])], dtype=record)[0],
        "dtypes": [record, aligned, numpy.dtype("M8[us]"), numpy.dtype(">f4"), numpy.dtype(object), numpy.dtype("U7")],
        "types": [numpy.float64, numpy.bool_, numpy.int64, numpy.ndarray, numpy.dtype],
        "functions": [numpy.sum, numpy.add],
        "generator": generator,
        "random_state": state,
    }


def samples() -> dict[str, Any]:
    return {**plain_samples(), **(numpy_samples() if HAS_NUMPY else {})}


def write(directory: Path) -> None:
    for name, value in samples().items():
        (directory / f"{name}.value").write_bytes(encode(value).to_bytes())
        (directory / f"{name}.call").write_bytes(encode_call((1, value), {"key": value}).to_bytes())


def check(directory: Path) -> None:
    known = samples()
    for path in sorted(directory.glob("*.value")):
        found = decode(path.read_bytes())
        (one, argument), keywords = decode_call(path.with_suffix(".call").read_bytes())
        if path.stem in known:
            for value in (found, argument):
                compare(path.stem, known[path.stem], value)
            assert (one, set(keywords)) == (1, {"key"})
        else:
            assert not HAS_NUMPY, path
            assert isinstance(found, RemoteValue), path
            assert found.missing == "numpy", found
            assert (one, type(argument)) == (1, RemoteValue)


def compare(name: str, expected: Any, found: Any) -> None:
    if name in ("generator", "random_state"):
        assert expected.bytes(8) == found.bytes(8), name
        if name == "generator":
            expected.bit_generator.state = numpy.random.default_rng(7).bit_generator.state
            expected.random(3)  # as it was: each sample is compared twice
        else:
            expected.set_state(numpy.random.RandomState(5).get_state())
            expected.normal(size=3)
        return
    assert type(expected) is type(found), (name, type(expected), type(found))
    if isinstance(expected, (list, tuple)):
        assert len(expected) == len(found), name
        for one, other in zip(expected, found):  # noqa: B905 - the lengths are equal, and Python 3.9's zip will do
            compare(name, one, other)
    elif HAS_NUMPY and isinstance(expected, numpy.ndarray):
        compare_arrays(name, expected, found)
    elif HAS_NUMPY and isinstance(expected, numpy.generic):
        assert expected.dtype == found.dtype, name
        assert expected.tobytes() == found.tobytes(), name
    else:
        assert expected == found, (name, expected, found)


def compare_arrays(name: str, expected: Any, found: Any) -> None:
    assert expected.dtype == found.dtype, (name, expected.dtype, found.dtype)
    assert expected.dtype.isalignedstruct == found.dtype.isalignedstruct, name
    assert expected.shape == found.shape, name
    if type(expected) is numpy.ndarray:
        assert expected.flags.writeable == found.flags.writeable, name
        if expected.flags.c_contiguous or expected.flags.f_contiguous:
            assert expected.flags.c_contiguous == found.flags.c_contiguous, name
            assert expected.flags.f_contiguous == found.flags.f_contiguous, name
    if expected.dtype.hasobject:
        compare(name, list(expected.ravel()), list(found.ravel()))
    else:
        assert numpy.ma.getdata(expected).tobytes() == numpy.ma.getdata(found).tobytes(), name
        assert bool(numpy.all(numpy.ma.getmaskarray(expected) == numpy.ma.getmaskarray(found))), name


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2]))

"""NumPy arrays, scalars, dtypes and generators, described so that any NumPy from 1.21 to 2.x reads them.

A pickle by NumPy 2 names modules that NumPy 1.26 has not. Here an array is its dtype, shape, order and bytes, and what
still pickles itself (subclasses, masked arrays, arrays of objects) has its global names translated at the receiver.
The names of the functions here that rebuild things are part of the wire format.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy

Reducer: TypeAlias = Callable[[Any], "tuple[Any, ...] | str"]
Table: TypeAlias = "dict[type, Reducer]"
DtypeKey: TypeAlias = "str | tuple[Any, ...]"

_RAW_KINDS = frozenset("biufcSUmMV")  # dtype kinds whose elements are nothing but their bytes
_ONLY_IN_2 = {"bool": "bool_", "long": "int_", "ulong": "uint"}  # names that scalar types have since NumPy 2


def register(table: Table) -> None:
    """Add the reducers of NumPy's own types; call it once ``numpy`` has been imported."""
    numpy = sys.modules["numpy"]
    table[numpy.ndarray] = _reduce_array
    table[numpy.memmap] = _reduce_array  # the file may not be there: its contents travel
    for code in numpy.typecodes["All"]:
        dtype = numpy.dtype(code)
        table[type(dtype)] = _reduce_dtype
        if code != "O":
            table[dtype.type] = _reduce_text if code in "SU" else _reduce_scalar


def register_random(table: Table) -> None:
    """Add the reducers of NumPy's random generators; call it once ``numpy.random`` has been imported."""
    random = sys.modules["numpy.random"]
    table[random.Generator] = _reduce_generator
    table[random.RandomState] = _reduce_random_state


def is_ready(module: Any) -> bool:
    """Tell whether NumPy's import has come to its end (another thread may be in the middle of it)."""
    return hasattr(module, "ndarray") and hasattr(module, "memmap") and hasattr(module, "typecodes")


def _reduce_array(array: numpy.ndarray[Any, Any]) -> tuple[Any, ...] | str:
    dtype = array.dtype
    key = describe(dtype) if dtype.kind in _RAW_KINDS and dtype.itemsize and not dtype.hasobject else None
    if key is None:
        return array.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if array.flags.c_contiguous or not array.flags.f_contiguous:
        order = "C"
        flat = array.reshape(-1)
    else:
        order = "F"
        flat = array.T.reshape(-1)
    raw: Any = flat.view("u1")
    if not array.flags.writeable:
        raw.flags.writeable = False
    return rebuild_array, (pickle.PickleBuffer(raw), key, array.shape, order)


def rebuild_array(data: Any, key: DtypeKey, shape: tuple[int, ...], order: Any) -> Any:
    """Return an array over ``data``, without a copy."""
    import numpy

    return numpy.ndarray(shape, build_dtype(key), data, 0, None, order)


def _reduce_scalar(scalar: numpy.generic) -> tuple[Any, ...] | str:
    dtype = scalar.dtype
    key = describe(dtype) if dtype.itemsize and not dtype.hasobject else None
    if key is None:
        return scalar.__reduce__()
    return rebuild_scalar, (key, scalar.tobytes())


def rebuild_scalar(key: DtypeKey, data: bytes) -> Any:
    """Return the scalar of that dtype with those bytes."""
    import numpy

    return numpy.frombuffer(bytearray(data), build_dtype(key))[0]


def _reduce_text(text: Any) -> tuple[Any, ...] | str:
    return rebuild_text, ((str(text),) if isinstance(text, str) else (bytes(text),))


def rebuild_text(text: str | bytes) -> Any:
    """Return a ``numpy.str_`` or ``numpy.bytes_``."""
    import numpy

    return numpy.str_(text) if isinstance(text, str) else numpy.bytes_(text)


def _reduce_dtype(dtype: numpy.dtype[Any]) -> tuple[Any, ...] | str:
    key = describe(dtype)
    return dtype.__reduce__() if key is None else (build_dtype, (key,))


def describe(dtype: numpy.dtype[Any]) -> DtypeKey | None:
    """Return a dtype in terms of strings and tuples, or None for one that only its own package knows."""
    if dtype.isbuiltin == 2 or dtype.metadata is not None:
        return None
    if dtype.subdtype is not None:
        base = describe(dtype.subdtype[0])
        return None if base is None else ("sub", base, dtype.subdtype[1])
    if dtype.fields is not None and dtype.names is not None:
        return _describe_fields(dtype)
    return dtype.str if dtype.kind in _RAW_KINDS or dtype.kind == "O" else None


def _describe_fields(dtype: numpy.dtype[Any]) -> DtypeKey | None:
    names = dtype.names or ()
    by_name: Any = dtype.fields
    fields: list[Any] = [by_name[name] for name in names]
    formats = [describe(field[0]) for field in fields]
    if None in formats:
        return None
    titles = tuple(field[2] if len(field) > 2 else None for field in fields)
    offsets = tuple(field[1] for field in fields)
    is_record = dtype.type.__name__ == "record"
    return ("struct", names, tuple(formats), offsets, titles, dtype.itemsize, dtype.isalignedstruct, is_record)


def build_dtype(key: DtypeKey) -> Any:
    """Return the dtype that `describe` described."""
    import numpy

    if isinstance(key, str):
        return numpy.dtype(key)
    if key[0] == "sub":
        return numpy.dtype((build_dtype(key[1]), key[2]))
    _, names, formats, offsets, titles, itemsize, aligned, is_record = key
    spec: dict[str, Any] = {
        "names": list(names),
        "formats": [build_dtype(form) for form in formats],
        "offsets": list(offsets),
        "itemsize": itemsize,
    }
    if any(title is not None for title in titles):
        spec["titles"] = list(titles)
    dtype: Any = numpy.dtype(spec, align=aligned)  # type: ignore[call-overload]
    return numpy.dtype((numpy.record, dtype)) if is_record else dtype


def _bit_generator(source: Any) -> tuple[Any, ...]:
    seed: Any = getattr(source, "seed_seq", None)
    seeded = type(seed).__name__ == "SeedSequence"
    facts = (seed.entropy, seed.spawn_key, seed.pool_size, seed.n_children_spawned) if seeded else None
    return type(source).__name__, source.state, facts


def _rebuild_bit_generator(name: str, state: Any, facts: tuple[Any, ...] | None) -> Any:
    import numpy.random

    seed = None
    if facts is not None:
        entropy, spawn_key, pool_size, spawned = facts
        seed = numpy.random.SeedSequence(entropy, spawn_key=spawn_key, pool_size=pool_size, n_children_spawned=spawned)
    source = getattr(numpy.random, name)(seed)
    source.state = state
    return source


def _reduce_generator(generator: numpy.random.Generator) -> tuple[Any, ...] | str:
    if not type(generator.bit_generator).__module__.startswith("numpy."):
        return generator.__reduce__()
    return rebuild_generator, _bit_generator(generator.bit_generator)


def rebuild_generator(name: str, state: Any, facts: tuple[Any, ...] | None) -> Any:
    """Return a ``numpy.random.Generator`` that goes on where the other one was."""
    import numpy.random

    return numpy.random.Generator(_rebuild_bit_generator(name, state, facts))


def _reduce_random_state(random: numpy.random.RandomState) -> tuple[Any, ...] | str:
    return rebuild_random_state, (random.get_state(legacy=False),)


def rebuild_random_state(state: Any) -> Any:
    """Return a ``numpy.random.RandomState`` that goes on where the other one was."""
    import numpy.random

    random = numpy.random.RandomState(getattr(numpy.random, state["bit_generator"])())
    random.set_state(state)
    return random


def resolve_global(module: str, name: str) -> tuple[str, str]:
    """Translate a name in NumPy to what the NumPy that is installed here calls it."""
    import numpy

    modern = not numpy.__version__.startswith(("0.", "1."))
    parts = module.split(".")
    if len(parts) > 1 and parts[1] in ("core", "_core"):
        parts[1] = "_core" if modern else "core"
        return ".".join(parts), name
    if modern:
        return module, name
    if module == "numpy":
        return module, _ONLY_IN_2.get(name, name)
    return ("numpy.core.records", name) if module == "numpy.rec" else (module, name)

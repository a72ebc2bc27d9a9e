"""The payload codec within one interpreter: round trips, sharing, views instead of copies, code by value, fuzz."""

from __future__ import annotations

import dataclasses
import mmap
import pickle
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import ProtocolError, StokerError
from stoker.protocol import payload
from stoker.protocol.encoded import ALIGNMENT_BYTES
from stoker.protocol.payload import decode, decode_call, encode, encode_call, encode_value, set_main_alias

from . import environments

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=2000),
    st.binary(max_size=20).map(bytearray),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner, inner)),
    max_leaves=20,
)


@dataclasses.dataclass
class Point:
    x: float
    label: str


def round_trip(value: Any) -> Any:
    return decode(encode_value(value).to_bytes())


@given(VALUES)
def test_values_come_back_equal(value: Any) -> None:
    assert round_trip(value) == value


@given(st.lists(VALUES, max_size=5), st.dictionaries(st.text(), VALUES, max_size=4))
def test_calls_come_back_equal(args: list[Any], kwargs: dict[str, Any]) -> None:
    assert decode_call(encode_call(tuple(args), kwargs).to_bytes()) == (tuple(args), kwargs)


def test_a_small_value_has_no_header() -> None:
    assert encode_value(1).to_bytes() == pickle.dumps(1, 5)
    assert encode_value((1, "a")).parts == [pickle.dumps((1, "a"), 5)]


def test_size_is_that_of_the_bytes() -> None:
    for value in (1, Point(1, "a"), numpy.arange(1000), [b"x" * 300_000, numpy.ones(99)], "é" * 100_000):
        encoded = encode(value)
        assert encoded.size == len(encoded.to_bytes()) == sum(memoryview(part).nbytes for part in encoded.parts)


def test_what_arguments_share_is_shared_where_they_arrive() -> None:
    array = numpy.arange(1000)
    point = Point(1.0, "a")
    encoded = encode_call((array, point, [point]), {"again": array})
    assert encoded.size < 1.5 * array.nbytes
    (first, one, other), kwargs = decode_call(encoded.to_bytes())
    assert first is kwargs["again"]
    assert one is other[0]


def test_big_data_is_not_copied_to_encode() -> None:
    array, text = numpy.arange(100_000), b"x" * 1_000_000
    parts = encode((array, text)).parts
    assert any(part is text for part in parts)
    views = [part for part in parts if isinstance(part, memoryview)]
    assert len(views) == 1
    assert numpy.shares_memory(numpy.frombuffer(views[0], "u1"), array)


def test_a_bytearray_is_copied_since_its_owner_may_resize_it() -> None:
    data = bytearray(500_000)
    encoded = encode(data)
    data.clear()
    assert decode(encoded.to_bytes()) == bytes(500_000)


def test_arrays_are_aligned_views_of_a_private_mapping() -> None:
    arrays = [numpy.arange(1001, dtype="u1"), numpy.arange(777.0), numpy.ones((3, 1000), "f4", order="F")]
    with tempfile.TemporaryFile() as file:
        file.write(encode(arrays).to_bytes())
        file.flush()
        for flags in (mmap.MAP_PRIVATE, mmap.MAP_PRIVATE):
            mapping = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            found = decode(mapping)
            for array, other in zip(found, arrays, strict=True):
                assert (array == other).all()
                assert array.ctypes.data % ALIGNMENT_BYTES == 0
                assert numpy.shares_memory(array, numpy.frombuffer(mapping, "u1"))
                array[...] += 1  # seen by nobody else: the second round reads what the first did


@pytest.mark.parametrize("buffer", [bytes, lambda data: memoryview(data), bytearray])
def test_arrays_are_writable_wherever_they_came_from(buffer: Any) -> None:
    array = decode(buffer(encode(numpy.arange(1000)).to_bytes()))
    array += 1
    assert array[-1] == 1000


def test_copy_detaches_from_the_buffer() -> None:
    data = bytearray(encode(numpy.arange(1000)).to_bytes())
    viewed, copied = decode(data), decode(data, copy=True)
    data[-8:] = bytes(8)
    assert viewed[-1] == 0
    assert copied[-1] == 999


def test_a_read_only_array_stays_read_only() -> None:
    array = numpy.arange(1000)
    array.flags.writeable = False
    assert not round_trip(array).flags.writeable


def test_a_memory_map_travels_as_its_contents(tmp_path: Path) -> None:
    mapped = numpy.memmap(tmp_path / "data", dtype="f4", mode="w+", shape=(500,))
    mapped[:] = 3
    found = round_trip(mapped)
    assert type(found) is numpy.ndarray
    assert found.sum() == 1500


def test_an_unmatched_buffer_size_of_bytes_like_arguments() -> None:
    assert bytes(round_trip(pickle.PickleBuffer(b"x" * 5000))) == b"x" * 5000


def test_generators_go_on_where_they_were() -> None:
    for source in (numpy.random.default_rng(3), numpy.random.Generator(numpy.random.MT19937(3))):
        source.random(5)
        copy = round_trip(source)
        assert (copy.random(9) == source.random(9)).all()
        assert copy.spawn(1)[0].random() == source.spawn(1)[0].random()


def test_lambdas_and_local_classes_go_by_value() -> None:
    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    factor = 3
    (function, local), _ = decode_call(encode_call((lambda x: x * factor, Local(4)), {}).to_bytes())
    assert function(local.x) == 12


def test_functions_of_modules_go_by_name() -> None:
    encoded = encode(environments.run)
    assert encoded.size < 100
    assert decode(encoded.to_bytes()) is environments.run


MAIN = """
import sys, types, subprocess
from stoker.protocol.payload import encode_call, decode_call, set_main_by_value
class Mine:
    def __init__(self, x): self.x = x
def mine(y): return Mine(y)
RECEIVER = '''
import sys
from stoker.protocol.payload import decode_call
args, _ = decode_call(sys.stdin.buffer.read())
print(*[type(a).__name__ for a in args])
'''
for by_value in (True, False):
    set_main_by_value(by_value)
    data = encode_call((Mine(1), mine, [lambda: mine(2)]), {}).to_bytes()
    (a, f, (g,)), _ = decode_call(data)
    print((type(a) is Mine), f is mine, type(g()) is Mine)
    print(subprocess.run([sys.executable, "-c", RECEIVER], input=data, capture_output=True).stdout.decode().strip())
"""


def test_main_goes_by_value_only_where_it_must(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(MAIN)
    site = str(Path(numpy.__file__).parents[1])
    told = environments.run(Path(sys.executable), script, extra_path=site).splitlines()
    # By value, cloudpickle still recognises its own classes within the process that made them.
    assert told[0].startswith("True")
    assert told[1] == "Mine function list"
    assert told[2] == "True True True"
    assert told[3] == "RemoteValue RemoteValue RemoteValue"


def test_a_script_known_to_workers_by_another_name_is_main_here(monkeypatch: pytest.MonkeyPatch) -> None:
    script = types.ModuleType("the_script")
    kind = type("Thing", (), {"__module__": "the_script"})
    script.Thing = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "the_script", script)
    data = encode(kind()).to_bytes()
    monkeypatch.setattr(sys.modules["__main__"], "Thing", Point, raising=False)
    set_main_alias("the_script")
    try:
        assert isinstance(decode(data), Point)
    finally:
        set_main_alias("")


def test_reducers_of_copyreg_are_honoured() -> None:
    import copyreg

    copyreg.pickle(Point, lambda point: (str, (point.label,)))  # type: ignore[arg-type,return-value]
    try:
        assert round_trip([Point(1, "label")]) == ["label"]
    finally:
        copyreg.dispatch_table.pop(Point)


def test_many_threads_encode_at_once() -> None:
    failures = []

    def work() -> None:
        for i in range(200):
            if round_trip((i, numpy.arange(i)))[0] != i:
                failures.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@given(st.binary(max_size=200).filter(lambda data: not data.startswith((b"\x80", b"G", b"C"))))
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    for opened in (decode, decode_call):
        with pytest.raises(ProtocolError):
            opened(data)


@given(st.data())
def test_a_truncated_payload_is_a_protocol_error(data: st.DataObject) -> None:
    value = data.draw(st.sampled_from([(1, "two"), Point(1, "a"), numpy.arange(500), [numpy.arange(500)] * 2]))
    whole = encode_call((value,), {"k": value}).to_bytes()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for opened in (decode, decode_call):
        with pytest.raises(ProtocolError):
            opened(cut)


@given(st.binary(min_size=15, max_size=60))
def test_a_header_that_lies_is_a_protocol_error(header: bytes) -> None:
    whole = encode(numpy.arange(500)).to_bytes()
    try:
        decode(b"B" + header + whole[1 + len(header) :])
    except ProtocolError:
        pass


@pytest.mark.parametrize("value", [1, [1], ((),), (("a",),), ("a", 1)])
def test_what_is_no_call_is_a_protocol_error(value: Any) -> None:
    try:
        decode_call(encode(value).to_bytes())
    except ProtocolError:
        return
    assert value == ((),)


FUZZ = """
import random, resource, sys
import numpy
from stoker.errors import ProtocolError
from stoker.protocol.payload import decode, decode_call, encode_call
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))  # a pickle may ask for any amount of memory
dice = random.Random(11)
for value in ((1, "two"), numpy.arange(300), {"a": [numpy.float64(2), range(3)]}):
    whole = encode_call((value,), {"k": value}).to_bytes()
    for _ in range(1500):
        mutated = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            mutated[dice.randrange(len(mutated))] = dice.randrange(256)
        for opened in (decode, decode_call):
            try:
                opened(bytes(mutated))
            except ProtocolError:
                pass
print("survived")
"""


def test_flipped_bytes_raise_nothing_else() -> None:
    site = str(Path(numpy.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", FUZZ],
        env={"PYTHONPATH": f"{environments.SOURCE}:{site}", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.stdout.strip() == "survived", done.stderr


def test_public_names_are_there() -> None:
    assert all(hasattr(payload, name) for name in payload.__all__)
    assert issubclass(payload.UnopenedValue, StokerError)


LIBRARIES = """
import sys, warnings
warnings.simplefilter("error")
import pandas, torch, numpy
from stoker.protocol.payload import decode, encode
frame = pandas.DataFrame({"a": numpy.arange(10_000.0), "b": ["x"] * 10_000, "c": pandas.Timestamp("2026-11-22")})
encoded = encode(frame)
assert any(type(part) is memoryview for part in encoded.parts)
pandas.testing.assert_frame_equal(decode(encoded.to_bytes()), frame)
for tensor in (
    torch.arange(1000.0), torch.ones(3, 500, dtype=torch.bfloat16).t(), torch.zeros(0, 3), torch.tensor(True),
    torch.arange(5, dtype=torch.int8)[::2], torch.ones(400, dtype=torch.complex64), torch.ones(999, requires_grad=True),
):
    encoded = encode(tensor)
    assert encoded.size < tensor.numel() * tensor.element_size() + 400
    found = decode(encoded.to_bytes())
    assert found.dtype == tensor.dtype and found.requires_grad == tensor.requires_grad and torch.equal(found, tensor)
layer = torch.nn.Linear(300, 300)
encoded = encode(layer.state_dict())
assert sum(type(part) is memoryview for part in encoded.parts) == 2
copy = torch.nn.Linear(300, 300)
copy.load_state_dict(decode(encoded.to_bytes()))
assert torch.equal(copy.weight, layer.weight)
model = decode(encode(layer).to_bytes())
assert torch.equal(model.weight, layer.weight) and model.weight.requires_grad
sparse = torch.eye(3).to_sparse()
assert torch.equal(decode(encode(sparse).to_bytes()).to_dense(), torch.eye(3))
weak = (layer.weight * 2)
assert torch.equal(decode(encode(weak.detach()).to_bytes()), weak)
print("fine")
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_frames_and_tensors_go_out_of_band() -> None:
    python = environments.with_packages("3.11", "torch==2.13.0", "pandas", "numpy")
    assert environments.run(python, "-c", LIBRARIES).strip() == "fine"

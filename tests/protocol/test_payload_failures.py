"""What cannot be encoded names the object; what cannot be opened arrives as a value that says why."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

from stoker.errors import SerializationError, StokerError
from stoker.protocol.payload import (
    RemoteValue,
    UnopenedValue,
    decode,
    decode_call,
    encode,
    encode_call,
    encode_value,
)
from stoker.protocol.pickle_slices import slice_items


class Model:
    def __init__(self, inner: object = None) -> None:
        self.inner = inner
        self._lock = threading.Lock()


@dataclasses.dataclass
class Job:
    model: object


class Slotted:
    __slots__ = ("handle",)

    def __init__(self, handle: object) -> None:
        self.handle = handle


class Awkward:
    def __getstate__(self) -> object:
        raise RuntimeError("not today")


def culprit(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        encode_call(args, kwargs)
    return caught.value


@pytest.mark.parametrize(
    ("argument", "suffix"),
    [
        (threading.Lock(), ""),
        (Model(), "._lock"),
        (Job(Model()), ".model._lock"),
        ([1, {"a": (0, Job(Model()))}], "[1]['a'][1].model._lock"),
        (Slotted(threading.Lock()), ".handle"),
        ((i for i in range(0)), ""),
        ({"k": [numpy.arange(3), numpy.array([threading.Lock()], dtype=object)]}, "['k'][1]"),
    ],
)
def test_the_path_names_the_object_inside(argument: object, suffix: str) -> None:
    first = culprit((1, argument), {})
    assert first.path.startswith(f"args[1]{suffix}")
    assert str(first).startswith(f"{first.path}: cannot pickle '")
    assert culprit((), {"a": 2, "name": argument}).path.startswith(f"kwargs['name']{suffix}")


def test_a_closure_s_variable_is_named() -> None:
    lock = threading.Lock()
    assert culprit((lambda: lock,), {}).path == "args[0].<closure>.lock"
    assert culprit((functools.partial(print, lock),), {}).path.startswith("args[0]")


def test_return_values_are_called_so() -> None:
    with pytest.raises(SerializationError, match=r"^return value\.inner\._lock: cannot pickle"):
        encode_value(Job(Model()).model and types.SimpleNamespace(inner=Model()))


def test_an_error_of_the_user_s_own_is_told() -> None:
    error = culprit((Awkward(),), {})
    assert error.path == "args[0]"
    assert "RuntimeError: not today" in str(error)


def test_what_is_nested_too_deeply_is_an_error() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert "nested too deeply" in str(culprit((nested,), {}))


def test_cycles_end() -> None:
    cycle: list[Any] = [threading.Lock()]
    cycle.insert(0, cycle)
    assert culprit((cycle,), {}).path == "args[0][1]"


@pytest.fixture
def elsewhere() -> Iterator[types.ModuleType]:
    """A package that is there while arguments are encoded, and can be taken away."""
    module = types.ModuleType("elsewhere")
    exec(
        "import numpy\n"
        "class Estimator:\n"
        "    def __init__(self, weights): self.weights = weights\n"
        "class Quantity(numpy.ndarray):\n"
        "    pass\n"
        "class Failing:\n"
        "    def __setstate__(self, state): raise RuntimeError('no GPU')\n"
        "    def __getstate__(self): return 1\n",
        vars(module),
    )
    for kind in (module.Estimator, module.Quantity, module.Failing):
        kind.__module__ = "elsewhere"
    sys.modules["elsewhere"] = module
    yield module
    sys.modules.pop("elsewhere", None)


def test_only_the_argument_that_cannot_be_opened_is_unopened(elsewhere: Any) -> None:
    weights = numpy.arange(1000.0)
    estimator = elsewhere.Estimator(weights)
    data = encode_call((1, estimator, numpy.ones(500), {"s": "text"}), {"more": [2, numpy.float64(3)]}).to_bytes()
    del sys.modules["elsewhere"]
    (one, found, ones, mapping), kwargs = decode_call(data)
    assert (one, mapping, kwargs) == (1, {"s": "text"}, {"more": [2, 3.0]})
    assert ones.sum() == 500
    ones += 1
    assert isinstance(found, RemoteValue)
    assert (found.remote_type, found.missing) == ("elsewhere.Estimator", "elsewhere")
    assert memoryview(found.payload).nbytes < weights.nbytes + 1000  # its own bytes, not the others'

    again = encode_call((found, [found]), {}).to_bytes()
    (still, (inside,)), _ = decode_call(again)
    assert isinstance(still, RemoteValue)
    assert inside is still
    sys.modules["elsewhere"] = elsewhere
    (opened, (same,)), _ = decode_call(again)
    assert type(opened) is elsewhere.Estimator
    assert same is opened
    assert (opened.weights == weights).all()
    assert type(still.open()) is elsewhere.Estimator


def test_what_an_unopened_argument_shares_with_another_goes_with_it(elsewhere: Any) -> None:
    shared = ["shared"]
    estimator = elsewhere.Estimator(shared)
    data = encode_call((shared, estimator, estimator, "last", [estimator, shared]), {}).to_bytes()
    del sys.modules["elsewhere"]
    (first, one, two, last, mixed), _ = decode_call(data)
    assert (first, last) == (["shared"], "last")
    assert all(type(value) is RemoteValue for value in (one, two, mixed))
    sys.modules["elsewhere"] = elsewhere
    assert one.open().weights == two.open().weights == ["shared"]
    inner, own = mixed.open()
    assert inner.weights is own


def test_a_subclass_of_an_array_that_is_missing_spares_the_others(elsewhere: Any) -> None:
    data = encode_call((numpy.arange(600).view(elsewhere.Quantity), numpy.arange(600)), {}).to_bytes()
    del sys.modules["elsewhere"]
    (quantity, array), _ = decode_call(data)
    assert isinstance(quantity, RemoteValue)
    assert array.sum() == 179700


def test_a_missing_name_and_a_failing_state_give_their_reasons(elsewhere: Any) -> None:
    data = encode(elsewhere.Estimator(1)).to_bytes()
    failing = encode_value(elsewhere.Failing()).to_bytes()
    found = decode(failing)
    assert "RuntimeError: no GPU" in found.reason
    del elsewhere.Estimator
    assert "Estimator" in decode(data).reason
    assert decode(data).missing == ""


def test_an_unopened_value_says_what_is_missing(elsewhere: Any) -> None:
    data = encode(elsewhere.Estimator(1)).to_bytes()
    del sys.modules["elsewhere"]
    found = decode(data)
    uses = (
        lambda: found.weights,
        lambda: found(1),
        lambda: found[0],
        lambda: list(found),
        lambda: found.open(),
    )
    for use in uses:
        with pytest.raises(
            UnopenedValue, match=r"elsewhere\.Estimator .*No module named 'elsewhere'.*Install 'elsewhere'"
        ):
            use()
    assert isinstance(UnopenedValue("x"), StokerError)
    assert not hasattr(found, "weights")
    assert "elsewhere.Estimator" in repr(found)
    assert type(copy.copy(found)) is RemoteValue
    for protocol in (4, 5):
        assert type(pickle.loads(pickle.dumps(found, protocol))) is RemoteValue


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_each_slice_loads_on_its_own(count: int) -> None:
    text = "a string that all of them share"
    values = tuple([text, {"k": text, i: Job(i)}, (i, text)] for i in range(count))
    stream = pickle.dumps(values, 5)
    assert [pickle.loads(item.stream) for item in slice_items(stream)] == list(values)


@pytest.mark.parametrize(
    ("container", "wrap"),
    [
        ("list", lambda x: [x]),
        ("list", lambda x: [1, [x]]),
        ("tuple", lambda x: (x, 1)),
        ("tuple", lambda x: ([], x, 1, 2, 3)),
        ("dict", lambda x: {"a": x}),
        ("", lambda x: x),
    ],
)
def test_a_container_says_that_it_holds_what_cannot_be_opened(elsewhere: Any, container: str, wrap: Any) -> None:
    data = encode_value(wrap(elsewhere.Estimator([1]))).to_bytes()
    del sys.modules["elsewhere"]
    found = decode(data)
    assert isinstance(found, RemoteValue)
    assert (found.container, found.remote_type) == (container, "elsewhere.Estimator")
    start = f"This {container} holds a elsewhere" if container else "A elsewhere"
    with pytest.raises(SerializationError, match=rf"^{start}\.Estimator.* cannot be indexed here: No module .*Install"):
        found[0]

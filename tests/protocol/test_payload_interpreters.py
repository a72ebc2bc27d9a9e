"""Payloads between interpreters of different versions, with different NumPys or none."""

from __future__ import annotations

import itertools
from pathlib import Path

import cloudpickle
import pytest

from . import environments

SAMPLES = Path(__file__).with_name("interop_samples.py")
SITE = str(Path(cloudpickle.__file__).parents[1])


@pytest.mark.parametrize(("sender", "receiver"), list(itertools.permutations(environments.present(), 2)))
def test_plain_objects_cross_between_interpreters(sender: str, receiver: str, tmp_path: Path) -> None:
    environments.run(environments.interpreter(sender), "-S", SAMPLES, "write", tmp_path)
    environments.run(environments.interpreter(receiver), "-S", SAMPLES, "check", tmp_path)


NUMPYS = (("3.10", "numpy==1.26.4"), ("3.13", "numpy>=2.1"))


@pytest.mark.slow
@pytest.mark.parametrize(("sender", "receiver"), list(itertools.product(NUMPYS, NUMPYS)))
def test_arrays_cross_between_numpy_1_and_2(sender: tuple[str, str], receiver: tuple[str, str], tmp_path: Path) -> None:
    environments.run(environments.with_packages(*sender), SAMPLES, "write", tmp_path)
    environments.run(environments.with_packages(*receiver), SAMPLES, "check", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("sender", NUMPYS)
def test_arrays_arrive_unopened_where_there_is_no_numpy(sender: tuple[str, str], tmp_path: Path) -> None:
    environments.run(environments.with_packages(*sender), SAMPLES, "write", tmp_path)
    environments.run(environments.interpreter("3.12"), "-S", SAMPLES, "check", tmp_path)


CODE_SENDER = """
import sys
from stoker.protocol.payload import encode_call
open(sys.argv[1], "wb").write(encode_call((lambda x: x + 1, [1, 2]), {}).to_bytes())
"""
CODE_RECEIVER = """
import sys
from stoker.protocol.payload import RemoteValue, decode_call
(function, numbers), _ = decode_call(open(sys.argv[1], "rb").read())
assert numbers == [1, 2]
print(repr(function) if isinstance(function, RemoteValue) else function(1))
"""


@pytest.mark.parametrize(("sender", "receiver"), [("3.12", "3.12"), ("3.11", "3.12"), ("3.13", "3.10")])
def test_code_runs_only_on_the_python_that_made_it(sender: str, receiver: str, tmp_path: Path) -> None:
    file = tmp_path / "payload"
    environments.run(environments.interpreter(sender), "-S", "-c", CODE_SENDER, file, extra_path=SITE)
    told = environments.run(
        environments.interpreter(receiver), "-S", "-c", CODE_RECEIVER, file, extra_path=SITE
    ).strip()
    if sender == receiver:
        assert told == "2"
    else:
        assert f"it holds code of Python {sender}, which Python {receiver} cannot run" in told


PASS_ON = """
import sys
from stoker.protocol.payload import RemoteValue, decode_call, encode_call
args, kwargs = decode_call(open(sys.argv[1], "rb").read())
assert [type(value) for value in args] == [RemoteValue, list], args
assert args[0].remote_type == "numpy.ndarray" and args[0].missing == "numpy"
open(sys.argv[1], "wb").write(encode_call((args[0], "passed on"), {"again": [args[0]]}).to_bytes())
"""
OPEN = """
import sys, numpy
from stoker.protocol.payload import decode_call
(array, text), kwargs = decode_call(open(sys.argv[1], "rb").read())
assert text == "passed on" and kwargs["again"][0] is array
array += 1
assert array.tolist() == list(range(1, 2001))
"""
SEND = """
import sys, numpy
from stoker.protocol.payload import encode_call
open(sys.argv[1], "wb").write(encode_call((numpy.arange(2000), [1]), {}).to_bytes())
"""


@pytest.mark.slow
def test_an_unopened_array_opens_where_numpy_is(tmp_path: Path) -> None:
    file = tmp_path / "payload"
    environments.run(environments.with_packages(*NUMPYS[1]), "-c", SEND, file)
    environments.run(environments.interpreter("3.12"), "-S", "-c", PASS_ON, file)
    environments.run(environments.with_packages(*NUMPYS[0]), "-c", OPEN, file)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import test_user_code
from tests.faults.running import Program
from tests.on_ray.again import again
from tests.on_ray.running import OnRay

OUTPUT = "what is kept of output, and how, is the node's own affair, whichever engine it has"
WITHOUT = {"test_a_gigabyte_of_output_is_bounded_on_disk_and_holds_nobody_up": OUTPUT}

globals().update(again(test_user_code, without=WITHOUT))


@pytest.fixture(scope="module", autouse=True)
def holds_the_lock(two_nodes: OnRay) -> Iterator[Program]:
    script = Path(test_user_code.__file__).parent / "programs" / "holds_the_lock.py"
    program = Program(script, str(test_user_code.MINUTE_SECONDS), env=two_nodes.environment)
    yield program
    if program.process.poll() is None:
        program.process.kill()
        program.process.wait()

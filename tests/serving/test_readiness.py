"""A new version of a class takes over once it is ready: until then, and where it never is, the one before answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving.running import STOKER, Serving, serving
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SOURCE = """
import os, time
import stoker

app = stoker.App("steps")

@app.cls(max_workers=1, cpu=0.5)
class Model:
    size: str = stoker.parameter(default="small")

    @stoker.enter()
    def load(self):
        while "GATE" and not os.path.exists("GATE"):
            time.sleep(0.02)
        if VERSION == 3:
            raise OSError("no weights")

    @stoker.endpoint(method="GET", requires_token=False)
    def version(self) -> int:
        return VERSION

    @stoker.method()
    def told(self) -> tuple[int, str]:
        return VERSION, self.size
"""

CALLER = """
import os, time
import stoker

def model(**parameters):
    return stoker.Cls.from_name("steps", "Model")(**parameters)

large, small = model(size="large"), model()
said = []
while said != [(9, "large"), (9, "small"), (9, "large"), (9, "small")]:
    said = [one.told.remote() for one in (large, small, model(size="large"), model())]
    print([version for version, _ in said], flush=True)
    time.sleep(0.02)
"""


def source(version: int, gate: str = "") -> str:
    return SOURCE.replace("VERSION", str(version)).replace("GATE", gate)


@pytest.fixture(scope="module")
def steps() -> Iterator[Serving]:
    with serving(STOKER_NODE_CPUS="4") as served:
        served.deploy(source(1), "steps")
        yield served


def test_the_version_before_answers_until_the_new_one_is_ready(steps: Serving, tmp_path: Path) -> None:
    gate = tmp_path / "loaded"
    with httpx.Client(base_url=steps.url, timeout=60) as client, ThreadPoolExecutor(1) as pool:
        assert client.get("/steps/Model/version").json() == 1
        deploying = pool.submit(steps.deploy, source(2, str(gate)), "steps")
        wait_until(lambda: len(json.loads(steps.stoker("functions", "list", "--json"))) == 2, timeout=30)
        for _ in range(20):
            answer = client.get("/steps/Model/version")
            assert (answer.json(), answer.headers["x-stoker-version"]) == (1, "1")
        assert not deploying.done()
        gate.touch()
        assert "deployed steps, version 2" in deploying.result()
        answer = client.get("/steps/Model/version")
        assert (answer.json(), answer.headers["x-stoker-version"]) == (2, "2")


def test_a_version_that_does_not_start_takes_nothing_over(steps: Serving) -> None:
    (steps.root / "steps.py").write_text(source(3))
    with httpx.Client(base_url=steps.url, timeout=60) as client:
        before = client.get("/steps/Model/version").json()
        done = subprocess.run(
            [*STOKER, "deploy", "steps.py"], env=steps.env, cwd=steps.root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and "deployed steps" not in done.stdout and "has not taken over" in done.stdout
        assert "goes on until it is: its last 2 workers did not start or stay" in done.stderr
        assert "OSError: no weights" in done.stderr and "stoker apps rollback steps" in done.stderr
        assert client.get("/steps/Model/version").json() == before
        assert "no weights" in steps.stoker("apps", "list")
        steps.deploy(source(4), "steps")
        assert client.get("/steps/Model/version").json() == 4
        assert "never ready" in steps.stoker("apps", "history", "steps")
        steps.stoker("apps", "rollback", "steps")
        assert client.get("/steps/Model/version").json() == before, "not the one that never started"


def test_pools_with_other_parameters_take_part(steps: Serving, tmp_path: Path) -> None:
    gate = tmp_path / "loaded"
    steps.deploy(source(8), "steps")
    (steps.root / "caller.py").write_text(CALLER)
    heard = tmp_path / "heard"

    def lines() -> list[str]:
        return heard.read_text().splitlines()

    with (
        heard.open("w") as out,
        ThreadPoolExecutor(1) as pool,
        subprocess.Popen([sys.executable, "caller.py"], env=steps.env, cwd=steps.root, stdout=out) as caller,
    ):
        try:
            wait_until(lines, timeout=30)
            deploying = pool.submit(steps.deploy, source(9, str(gate)), "steps")
            wait_until(lambda: len(json.loads(steps.stoker("functions", "list", "--json"))) == 4, timeout=30)
            seen = len(lines())
            wait_until(lambda: len(lines()) > seen + 10, timeout=30, message="nobody waits for the new version")
            assert lines()[-1] == "[8, 8, 8, 8]" and not deploying.done()
        finally:
            gate.touch()
        assert "deployed steps, version" in deploying.result()
        assert caller.wait(60) == 0
    assert lines()[-1] == "[9, 9, 9, 9]"

"""The examples do what their first lines say, in environments that are built for them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.serving.running import serving
from tests.serving.schemas import check_page

ANY_BYTES = "checks.positive_data_acceptance.enabled = false"  # few of them are a picture

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

# As `stoker run`, in a process that has no NumPy: what comes from the workers cannot be opened there.
_WITHOUT_NUMPY = """
import sys
for name in ("numpy", "sklearn", "matplotlib", "torch", "tensorflow", "dask", "distributed"):
    sys.modules[name] = None
from stoker.cli import main
sys.argv[0] = "stoker"
main()
"""


def _run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_NUMPY, "run", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_digits_sweep(tmp_path: Path) -> None:
    out = _run(str(EXAMPLES / "digits_sweep.py"), "--folds", "3", cwd=tmp_path)
    scores = [float(found) for found in re.findall(r"^ *(\d+\.\d\d)%  (?:svm|forest) ", out, flags=re.M)]
    assert len(scores) >= 24
    assert scores == sorted(scores, reverse=True)
    held_out = re.search(r"reads (\d+) of 450 held-out digits", out)
    assert held_out is not None
    assert int(held_out[1]) > 440
    picture = (tmp_path / "confusion_matrix.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 5_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_worlds(tmp_path: Path) -> None:
    out = _run(str(EXAMPLES / "two_worlds.py"), cwd=tmp_path)
    assert "Both directions" in out
    assert re.search(r"old_world \| NumPy 1\.26\.\d+ on Python 3\.1\d\.\d+ received them all", out)
    assert re.search(r"new_world \| NumPy 2\.\d+\.\d+ on Python 3\.1\d\.\d+ received them all", out)


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let uv find wheels beside the index where pip does, and let four ranks of half a core run."""
    if links := os.environ.get("PIP_FIND_LINKS"):
        monkeypatch.setenv("UV_FIND_LINKS", os.environ.get("UV_FIND_LINKS", links))
    monkeypatch.setenv("STOKER_NODE_CPUS", "2")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("wheels")
def test_ddp_digits(tmp_path: Path) -> None:
    out = _run(str(EXAMPLES / "ddp_digits.py"), cwd=tmp_path)
    apart = {
        what: float(far) for what, far in re.findall(r"^(2 ranks|4 ranks|one of 4).* (\S+) away$", out, flags=re.M)
    }
    assert apart.keys() == {"2 ranks", "4 ranks", "one of 4"}
    assert max(apart.values()) < 1e-5
    assert re.search(r"train_elastic\[\d\] \| rank \d of [23] begins at step 20", out)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("wheels")
def test_horovod_style(tmp_path: Path) -> None:
    out = _run(str(EXAMPLES / "horovod_style.py"), "--ranks", "3", cwd=tmp_path)
    told = re.search(r"3 ranks read (\d+\.\d)% of the digits; their weights are 0 apart", out)
    assert told is not None, out
    assert float(told[1]) > 90
    assert len(re.findall(r"train\[0\] \| epoch \d: loss", out)) == 8


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("wheels")
def test_tf_multiworker(tmp_path: Path) -> None:
    out = _run(str(EXAMPLES / "tf_multiworker.py"), "--steps", "40", cwd=tmp_path)
    losses = re.findall(r"loss (\d\.\d+) → (\d\.\d+)", out)
    assert len(losses) == 5  # of each process as it ends, and of both kinds of training
    assert len(set(losses)) == 1 or _close([(float(one), float(other)) for one, other in losses])
    assert float(losses[0][1]) < float(losses[0][0]) / 2
    told = re.search(r"their weights are 0 apart, and at most (\S+) from those of one process", out)
    assert told is not None, out
    assert float(told[1]) < 1e-4


def _close(losses: list[tuple[float, float]]) -> bool:
    return all(abs(a - b) < 1e-4 for one in losses for a, b in zip(one, losses[0], strict=True))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("wheels")
def test_dask_on_stoker(tmp_path: Path) -> None:
    out = _run(str(EXAMPLES / "dask_on_stoker.py"), "--workers", "2", "--splits", "2", cwd=tmp_path)
    scores = [float(found) for found in re.findall(r"^ *(\d+\.\d\d)%  gamma=", out, flags=re.M)]
    assert len(scores) == 12
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 95
    done = re.search(r"^models fitted by each worker: (.*)$", out, flags=re.M)
    assert done is not None, out
    assert sum(int(count) for count in re.findall(r"rank-\d: (\d+)", done[1])) == 24


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_serve_embeddings(tmp_path: Path) -> None:
    weather = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    with serving() as served, httpx.Client(base_url=f"{served.url}/embeddings", timeout=200) as client:
        served.stoker("deploy", str(EXAMPLES / "serve_embeddings.py"))
        vectors = client.post("/Embedder/vectors", json={"texts": weather}).json()
        assert [len(vector) for vector in vectors] == [384] * 3
        alike = [round(sum(x * y for x, y in zip(vectors[0], other, strict=True)), 4) for other in vectors]
        assert alike == [1.0, 0.666, 0.1046]  # as its makers print them for these sentences
        asked = client.get("/Embedder/similarity", params={"a": weather[1], "b": weather[2]})
        assert asked.json() == 0.1411
        assert client.post("/Embedder/vectors", json={"texts": []}).json() == []
        assert client.post("/Embedder/vectors", json={"texts": ["a"] * 257}).status_code == 413
        wanted = {"query": weather[0], "texts": [*weather, *["nothing to do with it"] * 40]}
        lines = client.post("/Embedder/scores", json=wanted, headers={"accept": "application/x-ndjson"}).text
        hits = [json.loads(line) for line in lines.splitlines()]
        assert len(hits) == 43 and [hit["score"] for hit in hits[:3]] == alike
        assert client.post("/Embedder/scores", json=wanted).text.endswith("event: done\ndata: null\n\n")
        found = client.post("/Embedder/search", json={**wanted, "top": 3}).json()
        assert found == sorted(hits, key=lambda hit: hit["score"], reverse=True)[:3] and found[0]["score"] == 1.0
        check_page(served, "embeddings", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_serve_digits(tmp_path: Path) -> None:
    with serving() as served:
        assert f"{served.url}/digits/Digits/classify" in served.stoker("deploy", str(EXAMPLES / "serve_digits.py"))
        served.stoker("run", str(EXAMPLES / "serve_digits.py"), "--digit", "7", "--out", str(tmp_path / "seven.png"))
        picture = (tmp_path / "seven.png").read_bytes()
        headers = {"content-type": "image/png"}
        with httpx.Client(base_url=served.url, timeout=120) as client:
            found = client.post("/digits/Digits/classify", content=picture, headers=headers).json()
            assert found["digit"] == 7 and len(found["probabilities"]) == 10
            assert client.post("/digits/Digits/classify", content=b"no picture", headers=headers).status_code == 400
            assert "/digits/Digits/classify" in client.get("/digits/openapi.json").json()["paths"]
        check_page(served, "digits", tmp_path, config=ANY_BYTES)

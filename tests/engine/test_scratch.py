"""Workers' own directories: those of workers that are gone go."""

from __future__ import annotations

from pathlib import Path

from stoker.engine.local import scratch


def test_a_sweep_keeps_what_belongs_to_workers_that_live(tmp_path: Path) -> None:
    root = tmp_path / "scratch"
    for worker in ("w1", "w2"):
        (root / worker / "deep").mkdir(parents=True)
    scratch.sweep(root, keep={"w2"})
    assert [path.name for path in root.iterdir()] == ["w2"]
    scratch.sweep(root)
    assert not root.exists()
    scratch.sweep(root)

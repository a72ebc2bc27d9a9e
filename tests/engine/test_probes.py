from __future__ import annotations

from stoker.engine.local.probes import facts


def test_every_fact_says_what_follows() -> None:
    found = {fact.name: fact for fact in facts()}
    assert {"system", "pidfd", "capacity", "limits", "interpreters", "uv", "shared memory", "disk", "gpu"} <= set(found)
    assert all(fact.status in {"ok", "warn", "fail"} and fact.value and fact.meaning for fact in found.values())
    assert found["pidfd"].status == "ok"

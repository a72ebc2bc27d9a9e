from __future__ import annotations

from pathlib import Path

from stoker.engine.ray.owner import owner_of
from stoker.engine.ray.ray_cluster import OWNER


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert owner_of(one) == owner_of(one) != owner_of(other)


def test_servers_on_one_database_are_one_owner_wherever_they_are(tmp_path: Path) -> None:
    found = owner_of(tmp_path / "here", "8d4c…")
    assert found == owner_of(tmp_path / "there", "8d4c…") != owner_of(tmp_path / "here", "other")
    assert OWNER.fullmatch(found)

from __future__ import annotations

from pathlib import Path

from stoker.client.image import Image
from stoker.images.builder import EnvironmentBuilder
from stoker.images.environment import prune

from .dict_blobs import Collecting, DictBlobs


class Nodes:
    """What nodes have agreed on, and what they asked."""

    def __init__(self) -> None:
        self.locks: dict[str, str] = {}
        self.asked: list[str] = []

    def agree(self, name: str, text: str) -> str:
        self.asked.append(name)
        return self.locks.setdefault(name, text) if text else self.locks.get(name, "")


def test_what_one_node_resolved_the_others_install(tmp_path: Path, blobs: DictBlobs, collect: Collecting) -> None:
    nodes = Nodes()
    first = EnvironmentBuilder(tmp_path / "a" / "environments", blobs, agree=nodes.agree)
    second = EnvironmentBuilder(tmp_path / "b" / "environments", blobs, agree=nodes.agree)
    spec = Image.python().pip_install("six<1.17").to_spec(collect)
    one = first.ensure(spec)
    ((name, lock),) = nodes.locks.items()
    assert name.startswith(one.recipe) and "six==1.16.0" in lock
    # Something older has come to be what counts: it is installed, whatever this node would have resolved to.
    nodes.locks[name] = lock.replace("six==1.16.0", "six==1.15.0")
    assert "six==1.15.0" in second.ensure(spec).lock
    asked = len(nodes.asked)
    assert "six==1.15.0" in second.ensure(spec).lock
    assert len(nodes.asked) == asked + 1  # that what is ready is what counts, and no more from then on
    second.ensure(spec)
    assert len(nodes.asked) == asked + 1


def test_a_node_that_has_another_one_from_before_builds_it_anew(
    tmp_path: Path, blobs: DictBlobs, collect: Collecting
) -> None:
    nodes, root = Nodes(), tmp_path / "a" / "environments"
    spec = Image.python().pip_install("six<1.17").to_spec(collect)
    before = EnvironmentBuilder(root, blobs).ensure(spec)
    name = f"{before.recipe}-{'.'.join(before.python_version.split('.')[:2])}"
    nodes.locks[name] = before.lock.replace("six==1.16.0", "six==1.15.0")
    agent = EnvironmentBuilder(root, blobs, agree=nodes.agree)
    after = agent.ensure(spec)
    assert after.key != before.key and "six==1.15.0" in after.lock
    assert agent.ensure(spec) == after
    assert Path(before.directory).is_dir()  # somebody may use it


def test_a_node_proposes_what_it_has_from_before(tmp_path: Path, blobs: DictBlobs, collect: Collecting) -> None:
    nodes, root = Nodes(), tmp_path / "a" / "environments"
    spec = Image.python().pip_install("six==1.16.0").to_spec(collect)
    before = EnvironmentBuilder(root, blobs).ensure(spec)
    assert EnvironmentBuilder(root, blobs, agree=nodes.agree).ensure(spec) == before
    assert list(nodes.locks.values()) == [before.lock]
    prune(root)
    assert EnvironmentBuilder(root, blobs, agree=nodes.agree).ensure(spec).lock == before.lock


def test_what_installs_nothing_is_not_asked_about(tmp_path: Path, blobs: DictBlobs, collect: Collecting) -> None:
    nodes = Nodes()
    agent = EnvironmentBuilder(tmp_path / "a" / "environments", blobs, agree=nodes.agree)
    agent.ensure(Image.python().env({"A": "b"}).to_spec(collect))
    assert nodes.asked == []

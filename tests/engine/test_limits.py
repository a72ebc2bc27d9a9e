"""Cgroup trees on a plain directory: what is written where, and which mode is chosen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stoker.engine.local.cgroups import Cgroups, Hierarchy
from stoker.engine.local.limits import STALE_SECONDS, choose_limits
from stoker.engine.local.node import node_size
from stoker.errors import InvalidOption

MIB = 1 << 20


@pytest.fixture
def v2(tmp_path: Path) -> Cgroups:
    """A version 2 tree: /user.slice/app.slice/shell, where app.slice was handed to us."""
    own = tmp_path / "user.slice" / "app.slice" / "shell"
    own.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    for directory in (own, own.parent, own.parent.parent):
        (directory / "cgroup.procs").write_text("")
    (own / "cgroup.subtree_control").symlink_to("/dev/null")  # refused, as for a group that has processes
    (own.parent / "cgroup.subtree_control").write_text("cpu memory")
    return Cgroups({}, Hierarchy(tmp_path, own))


@pytest.fixture
def v1(tmp_path: Path) -> Cgroups:
    trees = {}
    for controller in ("memory", "cpu"):
        own = tmp_path / controller / "session"
        own.mkdir(parents=True)
        (own / "cgroup.procs").write_text("")
        trees[controller] = Hierarchy(tmp_path / controller, own)
    return Cgroups(trees, None)


def test_version_2_takes_the_nearest_group_that_hands_memory_down(v2: Cgroups) -> None:
    limits = choose_limits("run", cgroups=v2)
    assert limits.mode == "cgroup2"
    group = limits.open("w1", cpus=0.5, memory=100 * MIB)
    place = Path(group.joins()[0]).parent
    assert place.relative_to(v2.unified.mount if v2.unified else "/") == Path("user.slice/app.slice/stoker-run/w1")
    assert (place / "memory.max").read_text() == str(100 * MIB)
    assert (place / "cpu.weight").read_text() == "50"
    assert (place / "memory.swap.max").read_text() == "0"
    (place / "cgroup.procs").write_text("11\n12\n")
    (place / "memory.peak").write_text(str(99 * MIB))
    assert group.pids() == [11, 12] and group.exceeded() == ""
    (place / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert group.exceeded() == "over its memory of 100.0 MiB (at most 99.0 MiB were in use)"


def test_version_1_limits_memory_and_weighs_cpu(v1: Cgroups) -> None:
    limits = choose_limits("run", cgroups=v1)
    assert (limits.mode, limits.why) == ("cgroup1", "cgroup v2: not mounted")
    group = limits.open("w1", cpus=2.0, memory=64 * MIB)
    memory, cpu = (Path(join).parent for join in group.joins())
    assert (memory / "memory.limit_in_bytes").read_text() == str(64 * MIB)
    assert (cpu / "cpu.shares").read_text() == "2048"
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert "over its memory of 64.0 MiB" in group.exceeded()


def test_without_a_writable_group_memory_is_watched() -> None:
    limits = choose_limits("run", cgroups=Cgroups({}, None))
    assert limits.mode == "watch"
    assert limits.why == "cgroup v2: not mounted; cgroup v1: its memory controller is not mounted"
    assert limits.open("w1", cpus=1.0, memory=0).joins() == []


async def test_groups_of_this_and_of_dead_runs_are_removed(tmp_path: Path) -> None:
    own = tmp_path / "memory"
    (own / "stoker-dead" / "w").mkdir(parents=True)
    (own / "stoker-young" / "w").mkdir(parents=True)
    (own / "cgroup.procs").write_text("")
    for path in (own / "stoker-dead" / "w", own / "stoker-dead"):
        os.utime(path, (0, 0))
    limits = choose_limits("mine", cgroups=Cgroups({"memory": Hierarchy(own, own)}, None))
    limits.open("w1", cpus=1.0, memory=0)
    os.utime(own / "stoker-dead", (0, 0))
    await limits.close()
    assert STALE_SECONDS > 0
    assert sorted(path.name for path in own.glob("stoker-*")) == ["stoker-young"]


MOUNTS = """\
30 23 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
31 23 0:28 /docker/abc /sys/fs/cgroup/memory rw shared:4 - cgroup cgroup rw,memory
32 23 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 23 0:30 / /proc rw - proc proc rw
"""


def test_membership_is_read_below_what_is_mounted() -> None:
    found = Cgroups.parse(MOUNTS, "4:memory:/docker/abc\n3:cpu,cpuacct:/\n0::/nowhere\n")
    assert found.v1["memory"].own == Path("/sys/fs/cgroup/memory")
    assert found.v1["cpu"] == found.v1["cpuacct"]
    assert found.unified is not None and found.unified.own == Path("/sys/fs/cgroup/unified")


def test_the_node_is_what_its_groups_allow(v2: Cgroups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STOKER_NODE_CPUS", raising=False)
    monkeypatch.delenv("STOKER_NODE_MEMORY", raising=False)
    assert v2.unified is not None
    (v2.unified.own.parent / "cpu.max").write_text("50000 100000")
    (v2.unified.own / "cpu.max").write_text("max 100000")
    (v2.unified.own / "memory.max").write_text(str(300 * MIB))
    size = node_size(v2)
    assert (size.cpus, size.memory) == (0.5, 300 * MIB)
    monkeypatch.setenv("STOKER_NODE_CPUS", "1.5")
    monkeypatch.setenv("STOKER_NODE_MEMORY", "1GiB")
    assert (node_size(v2).cpus, node_size(v2).memory) == (1.5, 1 << 30)


@pytest.mark.parametrize("text", ["0", "-1", "many", "inf", "nan"])
def test_a_malformed_number_of_cores_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_NODE_CPUS", text)
    with pytest.raises(InvalidOption, match="STOKER_NODE_CPUS"):
        node_size()

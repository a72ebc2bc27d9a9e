"""Every command of docs/cluster.md, run in the page's order on three machines with a real Ray, and on a laptop."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.machines.page import Step, programs, steps
from tests.machines.running import HOME, PROGRAMS, ROOT, Machine, Machines, machines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PAGE = ROOT / "docs" / "cluster.md"
LOOKS = ("stoker server status", "stoker workers list", "stoker calls show", "for call in", "ray status")
LOOK_SECONDS = 60.0  # for what a command shows to be so
# Machines of two cores whose Ray does without a dashboard, so that several are no burden to one.
RAY = f"""#!/bin/bash
options=()
if [ "$1" = start ]; then options=(--num-cpus=2 --object-store-memory=80000000 --disable-usage-stats); fi
if [ "$1 $2" = "start --head" ]; then options+=(--include-dashboard=false --include-log-monitor=false); fi
exec {Path(sys.prefix) / "bin" / "ray"} "$@" "${{options[@]}}"
"""


class Play:
    """Runs the steps of a page, with what each machine's shell has been told."""

    def __init__(self, made: Machines) -> None:
        self._machines = made
        self._exports: dict[str, list[str]] = {}
        self._known: dict[str, str] = {}  # what the page leaves out

    def run(self, step: Step) -> None:
        if step.command.startswith(("ssh ", "scp ")):
            self._reach_over(step)
            return
        if step.command.startswith("export "):
            self._exports.setdefault(step.machine, []).append(self._filled(step.command))
            return
        began, give_up = time.monotonic(), time.monotonic() + LOOK_SECONDS
        while True:
            done = self._run(step)
            said = f"{PAGE.name}:{step.line}: {step.machine}$ {step.command}\n{done.stdout}{done.stderr}"
            missing = step.missing(done.stdout + done.stderr)
            fits = bool(done.returncode) == step.fails and not missing
            if fits or not step.command.startswith(LOOKS) or time.monotonic() > give_up:
                break
        print(f"{time.monotonic() - began:5.1f} s  {said}")
        assert bool(done.returncode) == step.fails, f"exit status {done.returncode} of {said}"
        assert not missing, f"{missing!r} is not in {said}"
        self._learn(done.stdout)

    def _run(self, step: Step) -> subprocess.CompletedProcess[str]:
        words = ["set -e", *self._exports.get(step.machine, []), self._filled(step.command)]
        return self._machines[step.machine].run("bash", "-c", "\n".join(words), status=None, timeout=120.0)

    def _reach_over(self, step: Step) -> None:
        """Do what needs a way from one machine to the other's shell."""
        if found := re.fullmatch(r"ssh (\S+) (.*)", step.command):
            self._machines[found[1]].run("sh", "-c", found[2])
            return
        found = re.fullmatch(r"scp -p (\S+) (\S+):(\S+/)", step.command)
        assert found is not None, step.command
        source = Path(found[1].replace("~", str(HOME)))
        self._machines[found[2]].write(
            HOME / found[3] / source.name, self._machines[step.machine].read(source), mode=0o600
        )

    def _filled(self, command: str) -> str:
        for beginning, whole in self._known.items():
            command = command.replace(f"{beginning}…", whole)
        assert "…" not in command, command
        return command

    def _learn(self, output: str) -> None:
        if found := re.search(r"sha256:[0-9a-f]{64}", output):
            self._known["sha256:"] = found[0]
        if found := re.fullmatch(r"stoker-\S+", output.strip()):
            self._known["stoker-"] = found[0]


def test_the_page_from_top_to_bottom() -> None:
    with machines("head", "cpu-1", "cpu-2", "laptop") as made:
        for machine in made.machines:
            prepare(machine)
        play = Play(made)
        for step in steps(PAGE):
            play.run(step)
        left = made["head"].run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
        assert "stoker.server" not in left and "stoker.engine" not in left


def prepare(machine: Machine) -> None:
    machine.write(PROGRAMS / "ray", RAY, mode=0o755)
    for name, text in programs(PAGE).items():
        machine.write(HOME / name, text)


def test_what_the_page_says_beside_its_commands() -> None:
    text = PAGE.read_text()
    assert {step.machine for step in steps(PAGE)} == {"head", "cpu-1", "cpu-2", "laptop"}
    assert re.findall(r"```sh\n(.*)\n```", text) == ["pip install '.[ray]'"]
    assert re.search(r"^ray = \[", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"^```(\w*)", text, flags=re.MULTILINE)) == {"", "sh", "console", "python"}

"""`Image.local()` where the caller's environment is not: real builds from what a real environment was frozen to."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import stoker
from stoker.client.freezing import platform_tag as clients_tag
from stoker.errors import ImageBuildError, InterpreterNotFound, NotFound
from stoker.images.builder import EnvironmentBuilder
from stoker.images.environment import list_environments
from stoker.images.frozen import platform_tag, thawed
from stoker.images.interpreters import Interpreters
from stoker.types import FrozenDistribution, FrozenPython, ImageSpec, ImageStep, LocalPython

from .callers_venv import make_venv
from .dict_blobs import DictBlobs

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
SOURCE = str(Path(stoker.__file__ or "").parents[1])
Run = Callable[[str, str], str]

FREEZE = """
import hashlib, json, os, sys
from dataclasses import asdict
from stoker.client.image import Image
from stoker.client.registration import Shipment

shipment = Shipment(freezes=True)
spec = Image.local().env({"A": "1"}).to_spec(shipment)
for digest, data in shipment.blobs.items():
    with open(os.path.join(sys.argv[1], digest), "wb") as out:
        out.write(data)
print(json.dumps(asdict(spec.local)))
"""


def frozen_spec(blobs: DictBlobs, *items: FrozenDistribution, platform: str = "", python: str = HERE) -> ImageSpec:
    data = FrozenPython(python, platform or platform_tag(), list(items)).to_bytes()
    digest = hashlib.sha256(data).hexdigest()
    blobs.put(f"bundle/{digest}", [data])
    return ImageSpec(python, LocalPython("/not/here/bin/python", ["/not/here"], "f00d", digest))


def freeze_inside(python: str, scratch: Path, blobs: DictBlobs) -> LocalPython:
    """Freeze the environment of ``python`` as its own program would."""
    scratch.mkdir()
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(
        [python, "-c", FREEZE, str(scratch)], env=environment, cwd=scratch, check=True, capture_output=True, text=True
    )
    for file in scratch.iterdir():
        blobs.put(f"bundle/{file.name}", [file.read_bytes()])
    return LocalPython(**json.loads(done.stdout))


def test_a_whole_environment_is_built_anew_and_frozen_again_from_there(
    builder: EnvironmentBuilder, blobs: DictBlobs, tmp_path: Path, python: Run
) -> None:
    venv = make_venv(tmp_path / "theirs", sys.executable)
    local = freeze_inside(venv.python, tmp_path / "first", blobs)
    assert builder.ensure(ImageSpec(HERE, local)).python == venv.python  # here it is: nothing is built
    assert list_environments(builder._root) == []

    venv.take_away()
    news: list[str] = []
    spec = ImageSpec(HERE, local, [ImageStep("env", {"vars": {"A": "1"}})])
    built = builder.ensure(spec, progress=news.append)
    assert news[0].startswith("building the caller's own environment anew, for Python 3")
    assert "installing 3 packages" in news
    program = "import six, their_lab, their_tables; print(six.__version__, their_lab.VERSION, their_tables.ROWS)"
    assert python(built.python, program) == "1.16.0 0.3.dev1 3"
    tool = subprocess.run([f"{built.directory}/bin/lab-tool"], capture_output=True, text=True, check=True)
    assert tool.stdout == "lab 0.3.dev1\n"
    assert built.variables == {"A": "1"}
    assert not built.is_local
    assert "six==1.16.0" in built.lock
    assert "# their-lab 0.3.dev1: its files, " in built.lock

    elsewhere = replace(local, executable="/other/python", sys_path=["/other"], fingerprint="0")
    assert builder.ensure(replace(spec, local=elsewhere)) == built  # for all who have the same installed

    again = freeze_inside(built.python, tmp_path / "second", blobs)
    nested = EnvironmentBuilder(tmp_path / "third" / "environments", blobs)
    moved = replace(again, executable="/other/python")
    assert python(nested.ensure(ImageSpec(HERE, moved)).python, program) == "1.16.0 0.3.dev1 3"


def test_client_and_node_speak_of_platforms_alike() -> None:
    assert platform_tag() == clients_tag()


def test_what_no_index_has_is_named_with_its_node(root: Path, blobs: DictBlobs) -> None:
    builder = EnvironmentBuilder(root, blobs, node="gpu-7")
    items = [
        ("six", "1.16.0"),
        ("stoker-has-no-such-package-0", "1"),
        ("iniconfig", "0.0.99"),
        ("stoker-nor-this", "2"),
    ]
    with pytest.raises(ImageBuildError) as caught:
        builder.ensure(frozen_spec(blobs, *(FrozenDistribution(*item) for item in items)))
    message = str(caught.value)
    assert f"cannot be built on node {platform.node()} (gpu-7)" in message
    for name, version in items[1:]:
        assert f"\n  {name} {version}\n" in message
    assert "\n  six" not in message
    assert "pip_install" in message
    assert "uv says" in message
    assert list_environments(root) == []
    assert not [path for path in root.iterdir() if len(path.name) == 32]


def test_a_minor_version_that_the_node_lacks_is_named_with_those_it_has(root: Path, blobs: DictBlobs) -> None:
    builder = EnvironmentBuilder(root, blobs, node="n2")
    with pytest.raises(InterpreterNotFound) as caught:
        builder.ensure(frozen_spec(blobs, python="3.29"))
    message = str(caught.value)
    assert message.startswith("Image.local() is the caller's own environment.")
    assert f"no Python 3.29 on node {platform.node()} (n2)" in message
    assert f"\n  {HERE}." in message


def test_problems_and_foreign_machine_code_are_said_before_anything_is_built(
    builder: EnvironmentBuilder, blobs: DictBlobs, tmp_path: Path
) -> None:
    nobody = Interpreters(tmp_path / "none.json", environ={"HOME": "/nowhere"})
    builder.interpreters = nobody
    items = (
        FrozenDistribution("big", "1", problem="big is installed from your own disk and has 300 MB."),
        FrozenDistribution("fast", "2", wheel="f00d", compiled=True),
        FrozenDistribution("plain", "3", wheel="f00d"),
    )
    with pytest.raises(ImageBuildError) as caught:
        builder.ensure(frozen_spec(blobs, *items, platform="darwin-arm64-other"))
    message = str(caught.value)
    assert "has 300 MB" in message
    assert "fast 2 is installed from your own disk and holds compiled files for darwin-arm64-other" in message
    assert "plain" not in message


def test_without_a_frozen_form_the_error_says_to_start_again(builder: EnvironmentBuilder, blobs: DictBlobs) -> None:
    spec = frozen_spec(blobs)
    assert spec.local is not None
    with pytest.raises(InterpreterNotFound, match=r"this node \(.*\) does not have.*Start the program again"):
        builder.ensure(replace(spec, local=replace(spec.local, frozen="")))


def test_an_environment_that_is_here_but_not_in_full_is_built_anew(
    builder: EnvironmentBuilder, blobs: DictBlobs, tmp_path: Path
) -> None:
    from stoker.fingerprint import fingerprint

    spec = frozen_spec(blobs)
    assert spec.local is not None
    search = [str(tmp_path / "not-here")]
    local = replace(
        spec.local, executable=sys.executable, sys_path=search, fingerprint=fingerprint(sys.executable, search)
    )
    assert builder.ensure(replace(spec, local=replace(local, frozen=""))).is_local
    assert not builder.ensure(replace(spec, local=local)).is_local


def test_a_lost_or_damaged_description_is_an_error(builder: EnvironmentBuilder, blobs: DictBlobs) -> None:
    spec = frozen_spec(blobs)
    (key,) = blobs.kept
    blobs.put(key, [b'{"python": "3.11"}'])
    with pytest.raises(ImageBuildError, match="cannot be read"):
        builder.ensure(spec)
    blobs.kept.clear()
    with pytest.raises(NotFound):
        builder.ensure(spec)


def test_the_recipe_names_nothing_of_the_callers_machine(blobs: DictBlobs) -> None:
    spec = frozen_spec(blobs)
    assert "/not/here" not in repr(thawed(spec))
    assert thawed(spec).steps[0].kind == "frozen"

"""What a description of the caller's environment says of each distribution, by where that came from."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from stoker.client import freezing
from stoker.client.freezing import freeze
from stoker.client.image import Image
from stoker.client.registration import Shipment
from stoker.types import FrozenDistribution, FrozenPython

Files = dict[str, str]


class Site:
    """A ``site-packages`` with distributions as installers leave them, and what was frozen of it."""

    def __init__(self, root: Path) -> None:
        self.path = root / "lib" / "site-packages"
        self.path.mkdir(parents=True)
        self.blobs: dict[str, bytes] = {}

    def add(self, name: str, version: str, files: Files | None = None, *, origin: object = None, **more: str) -> None:
        """Install ``files``; ``more`` are files of the metadata, with ``_`` for the dot."""
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        texts = {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not this\n"}
        texts |= files or {}
        texts |= {f"{info}/{key.replace('_txt', '.txt')}": text for key, text in more.items()}
        if origin is not None:
            texts[f"{info}/direct_url.json"] = json.dumps(origin)
        for inner, text in texts.items():
            place = self.path / inner
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        (self.path / info / "RECORD").write_text("".join(f"{inner},,\n" for inner in [*texts, f"{info}/RECORD"]))

    def add_blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def freeze(self, *search: Path) -> dict[str, FrozenDistribution]:
        return {item.name: item for item in self.description(*search).distributions}

    def description(self, *search: Path) -> FrozenPython:
        return FrozenPython.from_bytes(self.blobs[self.digest(*search)])

    def digest(self, *search: Path) -> str:
        return freeze([*map(str, search), str(self.path)], self.add_blob)

    def wheel_of(self, item: FrozenDistribution) -> dict[str, bytes]:
        assert item.wheel, item.problem
        with zipfile.ZipFile(io.BytesIO(self.blobs[item.wheel])) as opened:
            return {name: opened.read(name) for name in opened.namelist()}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def project(root: Path, files: Files) -> Path:
    (root / ".git").mkdir(parents=True)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def editable(root: Path) -> object:
    return {"url": root.as_uri(), "dir_info": {"editable": True}}


def test_what_came_from_an_index_is_named_by_its_version(site: Site) -> None:
    site.add("Some.Thing", "1.2", {"thing.py": ""})
    site.add("torch", "2.13.0+cpu", {"torch/__init__.py": ""})
    assert site.freeze() == {
        "some-thing": FrozenDistribution("some-thing", "1.2"),
        "torch": FrozenDistribution("torch", "2.13.0+cpu"),
    }


def test_urls_and_commits_are_kept(site: Site) -> None:
    commit = {"vcs": "git", "commit_id": "abc123", "requested_revision": "main"}
    site.add("a", "1", origin={"url": "https://code.example/a", "vcs_info": commit, "subdirectory": "py"})
    site.add("b", "1", origin={"url": "https://files.example/b-1.tar.gz", "archive_info": {"hash": "sha256=beef"}})
    site.add("c", "1", origin={"url": "https://files.example/c.zip", "archive_info": {"hashes": {"sha256": "f00d"}}})
    site.add("d", "1", origin={"url": "https://files.example/d.zip", "archive_info": {}})
    assert {name: item.url for name, item in site.freeze().items()} == {
        "a": "a @ git+https://code.example/a@abc123#subdirectory=py",
        "b": "b @ https://files.example/b-1.tar.gz#sha256=beef",
        "c": "c @ https://files.example/c.zip#sha256=f00d",
        "d": "d @ https://files.example/d.zip",
    }


def test_a_path_dependency_travels_as_it_is_installed(site: Site, tmp_path: Path) -> None:
    files = {"own/__init__.py": "X = 1", "own/table.txt": "1 2", "own/__pycache__/x.pyc": "", "../../bin/own": "#!/x"}
    site.add(
        "own-thing",
        "0.1",
        files,
        origin={"url": (tmp_path / "gone").as_uri(), "dir_info": {}},
        entry_points_txt="[console_scripts]\nown = own:main\n",
    )
    item = site.freeze()["own-thing"]
    wheel = site.wheel_of(item)
    assert not item.compiled
    assert sorted(wheel) == [
        "own/__init__.py",
        "own/table.txt",
        "own_thing-0.1.dist-info/METADATA",
        "own_thing-0.1.dist-info/RECORD",
        "own_thing-0.1.dist-info/WHEEL",
        "own_thing-0.1.dist-info/entry_points.txt",
    ]
    assert wheel["own/__init__.py"] == b"X = 1"


def test_a_wheel_from_the_disk_and_a_local_repository_travel_too(site: Site) -> None:
    site.add("a", "1", {"a.cpython-311-x86_64-linux-gnu.so": ""}, origin={"url": "file:///d/a.whl", "archive_info": {}})
    site.add("b", "1", {"b.py": ""}, origin={"url": "file:///repo", "vcs_info": {"vcs": "git", "commit_id": "1"}})
    found = site.freeze()
    assert found["a"].compiled
    assert "b.py" in site.wheel_of(found["b"])


def test_what_conda_says_of_its_builder_is_not_believed(site: Site) -> None:
    origin = {"url": "file:///home/conda/feedstock_root/work", "dir_info": {}}
    site.add("numpy", "2.1.0", {"numpy/__init__.py": ""}, origin=origin, INSTALLER="conda\n")
    assert site.freeze() == {"numpy": FrozenDistribution("numpy", "2.1.0")}


def test_extras_are_distributions_like_others(site: Site, tmp_path: Path) -> None:
    root = project(tmp_path / "ours", {"src/ours/__init__.py": ""})
    site.add("ours", "1", {"_ours.pth": f"{root}/src\n"}, origin=editable(root))
    site.add("plotting", "3.1", {"plotting.py": ""})  # of ours[plots]
    assert site.freeze()["plotting"] == FrozenDistribution("plotting", "3.1")


def test_an_editable_project_travels_with_its_packages(site: Site, tmp_path: Path) -> None:
    root = project(
        tmp_path / "ours",
        {
            "src/ours/__init__.py": "from ours import _version",
            "src/ours/_version.py": "X = 1",
            "src/ours/native.so": "ELF",
            "src/ours/notes.log": "",
            "src/ours/shapes.json": "{}",
            "src/alone.py": "",
            "src/numbers/1.csv": "",
            ".gitignore": "*.log\n_version.py\n*.so\n",
            "tests/test_ours.py": "",
        },
    )
    site.add("ours", "1", {"_ours.pth": f"# a comment\nimport os\n{root}/src\n"}, origin=editable(root))
    item = site.freeze()["ours"]
    wheel = site.wheel_of(item)
    assert item.compiled
    assert [name for name in sorted(wheel) if "dist-info" not in name] == [
        "_stoker_sources/ours/alone.py",
        "_stoker_sources/ours/ours/__init__.py",
        "_stoker_sources/ours/ours/_version.py",
        "_stoker_sources/ours/ours/native.so",
        "_stoker_sources/ours/ours/shapes.json",
        "_stoker_sources_ours.pth",
    ]
    assert wheel["_stoker_sources_ours.pth"] == b"_stoker_sources/ours\n"


def test_a_finder_is_asked_for_the_names_of_the_metadata(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path / "ours", {"lib/found_by_finder/__init__.py": "", "lib/other/__init__.py": ""})
    monkeypatch.syspath_prepend(str(root / "lib"))  # what the finder would say
    files = {"__editable__.ours.pth": "import __editable___ours_finder"}
    site.add("ours", "1", files, origin=editable(root), top_level_txt="found_by_finder\n")
    names = site.wheel_of(site.freeze()["ours"])
    assert "_stoker_sources/ours/found_by_finder/__init__.py" in names
    assert not any("other" in name for name in names)


def test_a_source_tree_with_metadata_is_a_project_and_an_installation_goes_before_it(
    site: Site, tmp_path: Path
) -> None:
    root = project(
        tmp_path / "tree",
        {
            "tree/__init__.py": "",
            "setup.py": "",
            "tree.egg-info/PKG-INFO": "Name: tree\nVersion: 1\n",
            "tree.egg-info/top_level.txt": "tree\n",
            "six.egg-info/PKG-INFO": "Name: six\nVersion: 9\n",
        },
    )
    site.add("six", "1.16.0", {"six.py": ""})
    found = site.freeze(root)
    assert found["six"] == FrozenDistribution("six", "1.16.0")
    assert "_stoker_sources/tree/tree/__init__.py" in site.wheel_of(found["tree"])


def test_what_cannot_travel_is_said_and_fails_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = project(tmp_path / "big", {"src/big/__init__.py": "", "src/big/weights.bin": "x" * 2000})
    site.add("big", "1", {"_big.pth": f"{big}/src\n"}, origin=editable(big))
    site.add("loader", "1", {"_loader.pth": "import _loader"}, origin=editable(tmp_path / "loader"))
    site.add("gone", "1", {"_gone.pth": f"{tmp_path}/nowhere\n"}, origin=editable(tmp_path / "gone"))
    monkeypatch.setattr(freezing, "MAX_WHEEL_BYTES", 1000)
    found = site.freeze()
    assert "The largest files:" in found["big"].problem
    assert "big/weights.bin" in found["big"].problem
    assert "Install it without -e" in found["loader"].problem
    assert "gone is installed editable" in found["gone"].problem
    assert not any(item.wheel for item in found.values())


def test_stoker_and_broken_metadata_are_left_out(site: Site) -> None:
    site.add("stoker", "9.9")
    site.add("fine", "1")
    (site.path / "~alf-1.dist-info").mkdir()
    assert site.freeze().keys() == {"fine"}


def test_equal_environments_have_equal_digests_wherever_they_are(tmp_path: Path) -> None:
    digests = set()
    for place in ("here", "there"):
        site = Site(tmp_path / place)
        root = project(tmp_path / place / "ours", {"src/ours/__init__.py": "X = 1"})
        for name in ("b", "a") if place == "here" else ("a", "b"):
            site.add(name, "1")
        site.add("ours", "1", {"_ours.pth": f"{root}/src\n"}, origin=editable(root))
        os.utime(root / "src" / "ours" / "__init__.py", (1, 1))
        digests.add(site.digest())
    assert len(digests) == 1
    (root / "src" / "ours" / "__init__.py").write_text("X = 2")
    assert site.digest() not in digests
    shutil.rmtree(root)


def test_an_image_is_frozen_only_for_a_server_that_may_need_it() -> None:
    assert not Shipment().image(Image.local()).local.frozen  # type: ignore[union-attr]
    shipment = Shipment(freezes=True)
    local = shipment.image(Image.local()).local
    assert local is not None
    assert local.frozen in shipment.blobs
    assert "pytest" in {item.name for item in FrozenPython.from_bytes(shipment.blobs[local.frozen]).distributions}
    assert shipment.image(Image.python()).local is None


def test_metadata_that_is_not_utf_8_is_read_all_the_same(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.add("old", "1.0", {"old.py": "x = 1\n"}, origin={"url": "file:///home/me/old", "dir_info": {}})
    about = "Metadata-Version: 2.1\nName: old\nVersion: 1.0\nAuthor: J\u00fcrgen\n\n"
    (site.path / "old-1.0.dist-info" / "METADATA").write_bytes(about.encode("latin-1"))
    (item,) = site.freeze().values()
    assert (item.name, item.version, item.problem) == ("old", "1.0", "")
    assert site.wheel_of(item)["old-1.0.dist-info/METADATA"].decode() == about


def test_a_list_of_files_that_is_damaged_is_told_by_the_description(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.add("old", "1.0", {"old.py": "x = 1\n"}, origin={"url": "file:///home/me/old", "dir_info": {}})
    (site.path / "old-1.0.dist-info" / "RECORD").write_bytes(b"j\xfc.py,,\n")
    (item,) = site.freeze().values()
    assert "old is damaged" in item.problem

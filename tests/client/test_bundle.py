from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.client import bundle as bundle_module
from stoker.client.bundle import Bundle, build_bundle, module_files
from stoker.client.first_party import imports_of
from stoker.errors import InvalidRequest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A script, a helper beside it, a package with data, and what must stay out."""
    before = set(sys.modules)
    _write(
        tmp_path,
        {
            "zz_main.py": "import os, sys\nimport zz_helper\n\ndef job():\n    import zz_package.deep\n",
            "zz_helper.py": "from zz_other import x\nimport pytest\n",
            "zz_other.py": "x = 1\n",
            "zz_unrelated.py": "raise SystemExit\n",
            "notes.txt": "not in a package",
            "zz_package/__init__.py": "from . import _version\n",
            "zz_package/_version.py": "v = 1\n",
            "zz_package/local_only.py": "",
            "zz_package/deep/__init__.py": "",
            "zz_package/deep/data.json": "{}",
            "zz_package/deep/__pycache__/x.pyc": "x",
            "zz_package/big.bin": "x",
            "zz_package/.venv/pyvenv.cfg": "",
            ".gitignore": "*.bin\n_version.py\nlocal_only.py\n",
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("zz_"):
            del sys.modules[name]


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def _names(bundle: Bundle) -> list[str]:
    return [name for name, _ in bundle.listing]


EXPECTED = [
    "zz_helper.py",
    "zz_main.py",
    "zz_other.py",
    "zz_package/__init__.py",
    "zz_package/_version.py",
    "zz_package/deep/__init__.py",
    "zz_package/deep/data.json",
]


def test_the_entry_and_what_it_imports_and_nothing_else(project: Path) -> None:
    bundle = build_bundle(project / "zz_main.py")
    assert _names(bundle) == EXPECTED
    assert bundle.module == "zz_main"
    assert build_bundle("zz_main").digest == bundle.digest


def test_equal_sources_give_equal_digests_when_touched(project: Path) -> None:
    first = build_bundle(project / "zz_main.py").digest
    for path in project.rglob("*.py"):
        os.utime(path, (1, 1))
    bundle_module._packed.clear()
    assert build_bundle(project / "zz_main.py").digest == first
    (project / "zz_other.py").write_text("x = 2\n")
    assert build_bundle(project / "zz_main.py").digest != first


def test_a_script_outside_of_sys_path_finds_what_lies_beside_it(tmp_path: Path) -> None:
    _write(tmp_path, {"my.job.py": "import zz_beside\n", "zz_beside.py": ""})
    bundle = build_bundle(tmp_path / "my.job.py")
    assert _names(bundle) == ["my_job.py", "zz_beside.py"]
    assert bundle.module == "my_job"


def test_a_module_in_a_package_brings_the_package(project: Path) -> None:
    bundle = build_bundle("zz_package.deep")
    assert bundle.module == "zz_package.deep"
    assert "zz_package/__init__.py" in _names(bundle)
    assert "zz_main.py" not in _names(bundle)


def test_no_entry_takes_the_extra_modules(project: Path) -> None:
    assert _names(build_bundle(None, ["zz_helper", "os", "pytest"])) == ["zz_helper.py", "zz_other.py"]


def test_a_directory_counts_only_if_it_is_imported(project: Path) -> None:
    _write(project, {"zz_space/inner.py": "", "zz_a.py": '"""Then import zz_space."""\n'})
    _write(project, {"zz_b.py": "import zz_space.inner\n"})
    assert _names(build_bundle(project / "zz_a.py")) == ["zz_a.py"]
    assert _names(build_bundle(project / "zz_b.py")) == ["zz_b.py", "zz_space/inner.py"]


def test_installed_modules_and_stoker_stay_out() -> None:
    for name in ("pytest", "json", "stoker"):
        with pytest.raises(InvalidRequest):
            build_bundle(name)
        with pytest.raises(InvalidRequest):
            module_files(name)


def test_past_the_limit_the_largest_are_listed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_BUNDLE_BYTES", 2_000_000)
    _write(project, {"zz_package/huge.dat": "x" * 3_000_000, "zz_package/large.dat": "x" * 200_000})
    with pytest.raises(InvalidRequest, match=r"(?s)3\.0 MB  zz_package/huge\.dat.*0\.2 MB  zz_package/large\.dat"):
        build_bundle(project / "zz_main.py")


def test_missing_and_sourceless_entries_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no file"):
        build_bundle(tmp_path / "absent.py")
    with pytest.raises(InvalidRequest, match="not your own"):
        build_bundle("zz_nowhere")


def test_the_scan_sees_every_form_of_import() -> None:
    source = b"""
import a, b.c as d
from e.f import (g,
    h)
if x: import i
y = 1; import j
try: from k import l
except ImportError: pass
m = importlib.import_module("n.o")
# import hidden
from . import q
    import r
"""
    found = imports_of(source)
    assert {"a", "b", "e", "i", "j", "k", "n", "r"} <= found.top_level
    assert "hidden" not in found.top_level
    assert "q" in found.words


def test_of_each_file_little_is_read_and_of_others_nothing(project: Path) -> None:
    """A bundle is made at each start of a program: it costs what its own files do, not what is installed."""
    opened: list[str] = []
    events = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if events and event == "open" and isinstance(arguments[0], str):
            opened.append(arguments[0])

    sys.addaudithook(hook)
    bundle_module._packed.clear()
    bundle_module._scanned.clear()
    build_bundle(project / "zz_main.py")
    first = len(opened)
    build_bundle(project / "zz_main.py")
    events = False
    mine = [str(Path(name).relative_to(project)) for name in opened[:first] if Path(name).is_relative_to(project)]
    assert set(mine) >= {"zz_main.py", "zz_helper.py"}
    assert {name: mine.count(name) for name in mine if mine.count(name) > 2} == {}, "once to scan it, once to pack it"
    assert [name for name in opened if name.endswith(".py") and not Path(name).is_relative_to(project)] == []
    assert [name for name in opened[first:] if name.endswith(".py")] == [], "what has not changed is not read again"

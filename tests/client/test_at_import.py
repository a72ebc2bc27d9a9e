"""A program that deploys whenever it is imported is told so before anything is deployed."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

from stoker.errors import ConnectionFailed, InvalidRequest

HEAD = """
import stoker
app = stoker.App("eager")

@app.function()
def f(x: int) -> int:
    return x

def main() -> None:
    app.deploy()

"""
EACH_IMPORT = {
    "plain": "app.deploy()\n",
    "assigned": "version = app.deploy(\n    canary=10,\n)\n",
    "in a function": "main()\n",
    "for each": "for one in [app]:\n    one.deploy()\n",
}
GUARDED = {
    "guard": "if __name__ == '__main__':\n    app.deploy()\n",
    "guard and function": "if __name__ == '__main__':\n    main()\n",
    "other condition": "import os\nif 'DEPLOY' not in os.environ:\n    main()\n",
    "tried": "try:\n    app.deploy()\nfinally:\n    pass\n",
    "in a block that may end it": "with open(__file__):\n    app.deploy()\n",
    "for each under a condition": "for one in [app]:\n    if one:\n        one.deploy()\n",
}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "eager_module.py"


def run(script: Path, *, name: str) -> None:
    if name == "__main__":
        before = sys.modules["__main__"]
        try:
            runpy.run_path(str(script), run_name=name)
        finally:
            sys.modules["__main__"] = before
        return
    sys.modules.pop(name, None)
    try:
        importlib.invalidate_caches()
        importlib.import_module(name)
    finally:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["__main__", "eager_module"])
@pytest.mark.parametrize("line", EACH_IMPORT.values(), ids=EACH_IMPORT)
def test_what_each_worker_would_say_again_is_refused(script: Path, line: str, name: str) -> None:
    script.write_text(HEAD + line)
    with pytest.raises(
        InvalidRequest, match=r"eager_module.py:\d+ deploys 'eager' whenever .* `stoker deploy eager_mod"
    ):
        run(script, name=name)


@pytest.mark.parametrize("line", GUARDED.values(), ids=GUARDED)
def test_what_stands_under_a_condition_goes_on(script: Path, line: str) -> None:
    script.write_text(HEAD + line)
    with pytest.raises(ConnectionFailed):
        run(script, name="__main__")


def test_another_script_may_deploy_what_it_imports(script: Path) -> None:
    script.write_text(HEAD)
    other = script.with_name("ships_it.py")
    other.write_text("import eager_module\neager_module.main()\n")
    with pytest.raises(ConnectionFailed):
        run(other, name="__main__")


def test_what_has_no_file_goes_on(script: Path) -> None:
    script.write_text(HEAD)
    for source in ("import eager_module\neager_module.app.deploy()", HEAD + "app.deploy()"):
        with pytest.raises(ConnectionFailed):
            exec(compile(source, "<cell 1>", "exec"), {"__name__": "__main__"})

"""A program that deploys whenever it is imported is told so before anything is deployed."""

from __future__ import annotations

import importlib
import runpy
import subprocess
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
    "annotated": "version: int = app.deploy()\n",
    "printed": "print('version', app.deploy())\n",
}
GUARDED = {
    "and": "__name__ == '__main__' and app.deploy()\n",
    "conditional expression": "version = app.deploy() if __name__ == '__main__' else None\n",
    "condition in a function": "def go() -> None:\n    if __name__ == '__main__':\n        app.deploy()\ngo()\n",
    "function": "main()\n",
    "exit with a function": "import sys\nsys.exit(main())\n",
    "for each": "for one in [app]:\n    one.deploy()\n",
    "for each argument": "import sys\nfor _ in sys.argv[:1]: app.deploy()\n",
    "while": "n = 0\nwhile n < 1:\n    n += 1\n    app.deploy()\n",
    "comprehension": "done = [one.deploy() for one in [app]]\n",
    "lambda": "(lambda: app.deploy())()\n",
    "decorator": "def now(f):\n    f()\n    return f\n@now\ndef go() -> None:\n    app.deploy()\n",
    "beside another on its line": "__name__ == '__main__' and app.deploy(); app.deploy\n",
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


DRIVERS = {
    "runpy": 'import runpy\nrunpy.run_path({file!r}, run_name="__main__")\n',
    "exec": "exec(compile(open({file!r}).read(), {file!r}, 'exec'))\n",
    "exec without its name": "exec(open({file!r}).read())\n",
}


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=DRIVERS)
def test_a_program_may_run_one_that_is_guarded(script: Path, driver: str) -> None:
    script.write_text(HEAD + GUARDED["guard"])
    other = script.with_name("drives_it.py")
    other.write_text(driver.format(file=str(script)))
    done = subprocess.run([sys.executable, str(other)], check=False, capture_output=True, text=True, timeout=60)
    assert "ConnectionFailed" in done.stderr


def test_what_is_refused_is_so_for_a_program_of_its_own(script: Path) -> None:
    script.write_text(HEAD + EACH_IMPORT["plain"])
    for given in ([str(script)], ["-m", script.stem]):
        done = subprocess.run(
            [sys.executable, *given], check=False, capture_output=True, text=True, timeout=60, cwd=script.parent
        )
        assert "deploys 'eager' whenever the module is imported" in done.stderr, given


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

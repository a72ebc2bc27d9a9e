from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stoker
from stoker.cli import parameters
from stoker.cli.loading import by_name, find, load, split_target
from stoker.cli.usage import WrongUsage
from stoker.errors import InvalidRequest

PROGRAM = """
import stoker
app = stoker.App("loaded")

@app.function()
def work(x: int) -> int:
    return x

@app.local_entrypoint()
def main() -> None: ...
"""


@pytest.fixture(autouse=True)
def fresh_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Load in a directory of its own, and forget afterwards what was loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def test_a_target_names_a_file_and_perhaps_a_function() -> None:
    assert split_target("a.py") == ("a.py", "")
    assert split_target("dir/a.py::work") == ("dir/a.py", "work")


def test_the_one_entrypoint_is_found_and_others_by_name() -> None:
    program = load(_write("prog_one.py", PROGRAM))
    assert find(program, "").name == "main"
    assert find(program, "work").name == "work"


def test_a_file_in_a_package_is_imported_as_part_of_it() -> None:
    _write("pkg_loaded/__init__.py", "")
    _write("pkg_loaded/helper.py", "VALUE = 1")
    source = _write("pkg_loaded/prog.py", f"from .helper import VALUE\n{PROGRAM}")
    assert load(source).module.__name__ == "pkg_loaded.prog"


def test_a_module_is_loaded_by_name() -> None:
    _write("prog_module.py", PROGRAM)
    assert load("prog_module", is_module=True).apps[0].name == "loaded"
    with pytest.raises(InvalidRequest, match="There is no module 'prog_modul'"):
        load("prog_modul", is_module=True)
    with pytest.raises(InvalidRequest, match="leave -m out"):
        load("prog_module.py", is_module=True)


def test_apps_of_imported_functions_are_used_but_not_the_programs_own() -> None:
    _write("prog_lib.py", PROGRAM.replace("loaded", "library"))
    program = load(_write("prog_user.py", f"from prog_lib import work as other\n{PROGRAM}"))
    assert [app.name for app in program.apps] == ["loaded"]
    assert [app.name for app in program.used] == ["library"]


def test_a_misspelt_file_gets_a_suggestion() -> None:
    _write("sweep.py", PROGRAM)
    with pytest.raises(InvalidRequest, match=r"There is no file sweeep\.py\. Did you mean sweep\.py\?"):
        load("sweeep.py")
    with pytest.raises(InvalidRequest, match="is a directory"):
        load(".")


@pytest.mark.parametrize(("given", "there"), [("nosuch.py", "nomethod.py"), ("nope.py", "shop.py")])
def test_what_is_not_alike_is_not_suggested(given: str, there: str) -> None:
    _write(there, PROGRAM)
    with pytest.raises(InvalidRequest, match=rf"^There is no file {given}\.$"):
        load(given)


def test_a_file_that_is_no_python_is_named() -> None:
    Path("model.joblib").write_bytes(b"\x80\x04\0\0model")
    with pytest.raises(InvalidRequest, match=r"^model\.joblib is no Python source"):
        load("model.joblib")


def test_a_file_without_an_app_says_what_to_write() -> None:
    with pytest.raises(InvalidRequest, match=r"defines no app\. Write `app = stoker\.App"):
        load(_write("prog_empty.py", "x = 1"))


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="Give the file another name"):
        load(_write("json.py", PROGRAM))


def test_several_entrypoints_are_listed() -> None:
    text = PROGRAM + "\n@app.local_entrypoint()\ndef second() -> None: ...\n"
    program = load(_write("prog_two.py", text))
    with pytest.raises(
        InvalidRequest, match=r"(?s)several local entrypoints.*prog_two\.py::main.*prog_two\.py::second"
    ):
        find(program, "")
    with pytest.raises(InvalidRequest, match="Did you mean 'second'"):
        find(program, "secnd")


def test_what_the_file_raises_comes_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        load(_write("prog_raises.py", "1 / 0"))
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        load(_write("prog_imports.py", "import no_such_package"))
    assert "prog_raises" not in sys.modules


CLASSES = """
import stoker
app = stoker.App("classes")

@app.cls()
class Greeter:
    word: str = stoker.parameter(default="hello")

    @stoker.method()
    def greet(self, name: str) -> str:
        return f"{self.word} {name}"
"""
NEEDY = """
@app.cls()
class Needy:
    need: str = stoker.parameter()

    @stoker.method()
    def one(self) -> None: ...

    @stoker.method()
    def two(self) -> None: ...
"""


def test_methods_are_found_by_their_class() -> None:
    program = load(_write("prog_class.py", CLASSES))
    for name in ("", "Greeter", "Greeter.greet"):
        found = find(program, name)
        assert isinstance(found, stoker.Function)
        assert found.label == "classes.Greeter.greet"
        assert found("you") == "hello you"
    assert parameters.parse(found.raw_f, ["--name", "x"], program="p") == {"name": "x"}
    app = program.apps[0]
    assert by_name("classes", "Greeter", app.functions["Greeter"]) == [
        'stoker.Cls.from_name("classes", "Greeter")(word=…).greet.remote(…)'
    ]


def test_each_method_is_called_and_no_web_app() -> None:
    app = stoker.App("shown")

    @app.cls
    class Model:
        @stoker.endpoint
        def one(self, x: int) -> int:
            return x

        @stoker.method
        def two(self, x: int) -> int:
            return x

        @stoker.wsgi_app
        def pages(self) -> None: ...

    @app.function
    @stoker.wsgi_app
    def site() -> None: ...

    calls = [call for name, found in app.functions.items() for call in by_name("shown", name, found)]
    assert calls == [f'stoker.Cls.from_name("shown", "Model")().{method}.remote(…)' for method in ("one", "two")]


def test_methods_that_cannot_be_run_say_why() -> None:
    program = load(_write("prog_needy.py", CLASSES + NEEDY))
    with pytest.raises(WrongUsage, match=r"Needy is a class with several methods.*\n.*::Needy\.one\n.*::Needy\.two"):
        find(program, "Needy")
    with pytest.raises(InvalidRequest, match=r"Needy must be given need.*Needy\(need=…\)\.two\.remote"):
        find(program, "Needy.two")
    with pytest.raises(WrongUsage, match=r"several functions.*\n.*::Greeter\.greet\n.*::Needy\.one"):
        find(program, "")
    with pytest.raises(InvalidRequest, match=r"Did you mean 'Greeter\.greet'"):
        find(program, "Greeter.great")

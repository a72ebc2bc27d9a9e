"""`stoker` as a user starts it: real processes, real servers, and nothing left of either."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import leftovers
from tests.waiting import wait_until

STOKER = (sys.executable, "-m", "stoker.cli")

PROGRAM = '''
import time
import stoker

app = stoker.App("programs")

@app.function()
def square(x: int) -> int:
    """Square a number."""
    print(f"squaring {x}")
    return x * x

@app.function()
def fail(x: int) -> int:
    return deeper(x)

def deeper(x):
    raise ValueError(f"no {x}")

@app.function()
def wait(path: str) -> None:
    try:
        open(path, "w").close()
        time.sleep(600)
    finally:
        print("cleaning up")
        time.sleep(0.3)
        print("cleaned up")
        open(path + ".cleaned", "w").close()

@app.function()
def count(n: int):
    yield from range(n)

@app.function()
def talks():
    try:
        yield from range(1000)
    finally:
        time.sleep(0.2)
        print("no more numbers")

@app.local_entrypoint()
def breaks_off():
    for number in talks.stream():
        break

@app.local_entrypoint()
def main(points: int = 3, *, loud: bool = False):
    """Square some numbers."""
    print("LOUD" if loud else "quiet", sum(square.map(range(points))))
    return {"points": points}

@app.local_entrypoint()
def calls_fail():
    fail.remote(3)

@app.local_entrypoint()
def reads_on():
    input()

@app.local_entrypoint()
def calls_nobody():
    stoker.Function.from_name("nobody", "there").remote()
'''


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "prog.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return "prog.py"


def _stoker(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*STOKER, *arguments], capture_output=True, text=True, check=False, timeout=100, stdin=subprocess.DEVNULL
    )
    assert done.returncode == status, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def server(own_home: Path, program: str) -> Iterator[None]:
    _stoker("server", "start")
    yield
    _stoker("server", "stop")


def test_run_calls_the_entrypoint_with_its_options(program: str) -> None:
    done = _stoker("run", f"{program}::main", "--points", "4", "--loud")
    assert "LOUD 14" in done.stdout
    assert "programs.square | squaring 3" in done.stdout


def test_run_calls_one_function_and_prints_its_result(program: str) -> None:
    assert _stoker("run", f"{program}::square", "--x", "7").stdout.splitlines()[-1] == "49"
    assert _stoker("run", f"{program}::count", "--n", "3").stdout.split() == ["0", "1", "2"]
    assert _stoker("run", f"{program}::count", "--n", "2", "--json").stdout.splitlines() == ["0", "1"]


@pytest.mark.parametrize("where", [("--json", "prog.py::square"), ("prog.py::square", "--json")])
def test_json_has_stdout_to_itself(where: tuple[str, str], program: str) -> None:
    done = _stoker("run", *where, "--x", "7")
    assert json.loads(done.stdout) == 49
    assert "programs.square | squaring 7" in done.stderr


def test_json_of_an_entrypoint_is_what_it_returns(program: str) -> None:
    done = _stoker("run", "--json", f"{program}::main", "--points", "3")
    assert json.loads(done.stdout) == {"points": 3}
    assert "quiet 5" in done.stderr


def test_files_beside_a_program_are_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("found")
    (tmp_path / "beside.py").write_text(
        "import os, stoker\n"
        "app = stoker.App('beside')\n"
        "@app.function(image=stoker.Image.local().add_local_file('words.txt', 'words.txt'))\n"
        "def read() -> str:\n"
        "    return open(os.path.join(os.environ['STOKER_FILES'], 'words.txt')).read()\n"
    )
    assert "found" in _stoker("run", str(tmp_path / "beside.py")).stdout


def test_a_module_that_an_image_has_not_is_named_with_what_brings_it(tmp_path: Path) -> None:
    (tmp_path / "lacks.py").write_text(
        "import stoker\n"
        "app = stoker.App('lacks')\n"
        "@app.function(image=stoker.Image.python())\n"
        "def work() -> None:\n"
        "    import sklearn\n"
    )
    said = _stoker("run", str(tmp_path / "lacks.py"), "--no-progress", status=1).stderr
    assert said.count("The image of this function has no 'sklearn': add .pip_install(\"scikit-learn\") to it.") == 1


def test_our_own_options_may_stand_behind_the_target(program: str) -> None:
    assert _stoker("run", f"{program}::square", "--x", "3", "--no-progress").stdout.splitlines()[-1] == "9"


def test_a_users_exception_shows_the_users_frames_only(program: str) -> None:
    done = _stoker("run", f"{program}::calls_fail", status=1)
    assert "ValueError: no 3" in done.stderr
    assert 'File "prog.py", line 18, in deeper' in done.stderr
    assert "in calls_fail" in done.stderr
    assert f"{os.sep}stoker{os.sep}" not in done.stderr


def test_a_module_that_only_an_image_has_says_where_to_import_it(program: str) -> None:
    Path(program).write_text("import only_in_the_image\n" + PROGRAM)
    shown = _stoker("run", f"{program}::main", status=1).stderr
    assert "import it inside that function" in shown
    assert shown.count("only_in_the_image") >= 2


def test_an_eof_error_is_shown_as_any_other(program: str) -> None:
    done = _stoker("run", f"{program}::reads_on", status=1)
    assert "EOFError: EOF when reading a line" in done.stderr
    assert "in reads_on\n    input()" in done.stderr


def test_one_of_stokers_errors_shows_the_users_line(program: str) -> None:
    done = _stoker("run", f"{program}::calls_nobody", status=1)
    assert done.stderr.startswith("error: ")
    assert "It was called here:" in done.stderr
    assert 'in calls_nobody\n    stoker.Function.from_name("nobody", "there").remote()' in done.stderr
    assert f"{os.sep}stoker{os.sep}" not in done.stderr


def test_mistakes_have_no_traceback(program: str) -> None:
    several = _stoker("run", program, status=2)
    assert several.stderr.startswith("error: prog.py has several local entrypoints")
    assert "prog.py::main" in several.stderr
    unknown = _stoker("run", f"{program}::main", "--pionts", "3", status=2)
    assert "--points" in unknown.stderr
    wrong = _stoker("run", f"{program}::main", "--points", "abc", status=2)
    assert "--points" in wrong.stderr
    assert "'abc' is not a" in wrong.stderr
    missing = _stoker("run", "porg.py", status=1)
    assert missing.stderr == "error: There is no file porg.py. Did you mean prog.py?\n"
    assert "Traceback" not in several.stderr + unknown.stderr


def _start_waiting(program: str, marker: Path) -> subprocess.Popen[str]:
    command = [*STOKER, "run", f"{program}::wait", "--path", str(marker)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(marker.exists, timeout=60, message="the function runs")
    return process


def test_ctrl_c_cancels_cleanly(program: str, tmp_path: Path, runtime_dir: Path) -> None:
    process = _start_waiting(program, tmp_path / "started")
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "cancelling; Ctrl-C again kills" in errors
    assert out.splitlines() == ["programs.wait | cleaning up", "programs.wait | cleaned up"]
    assert "Traceback" not in errors
    assert (tmp_path / "started.cleaned").exists()
    assert leftovers.of(runtime_dir) == []


def test_output_of_a_generator_that_was_broken_off_is_shown(program: str) -> None:
    assert _stoker("run", f"{program}::breaks_off").stdout == "programs.talks | no more numbers\n"


def test_a_second_ctrl_c_kills(program: str, tmp_path: Path, runtime_dir: Path) -> None:
    text = PROGRAM.replace('open(path + ".cleaned", "w").close()', "time.sleep(600)")
    Path(program).write_text(text)
    process = _start_waiting(program, tmp_path / "started")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    wait_until(lambda: "cancelling" in process.stderr.readline(), timeout=20, message="the first is taken")  # type: ignore[union-attr]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    wait_until(lambda: leftovers.of(runtime_dir) == [], timeout=30, message="all that the program started is gone")


BUILDS = """
import stoker

app = stoker.App("builds")

@app.function(image=stoker.Image.python().run_commands("echo $$ > {0}/pid; sleep 600; touch {0}/after"))
def f() -> None:
    pass
"""


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_during_a_build_ends_it_with_all_that_it_started(
    own_home: Path, tmp_path: Path, runtime_dir: Path, times: int
) -> None:
    (tmp_path / "builds.py").write_text(BUILDS.format(tmp_path))
    marker = tmp_path / "pid"
    command = [*STOKER, "run", str(tmp_path / "builds.py")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: marker.exists() and marker.read_text().strip() != "", timeout=60, message="the build runs")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    wait_until(lambda: "cancelling" in process.stderr.readline(), timeout=20, message="the first is taken")  # type: ignore[union-attr]
    if times == 2:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    shell = Path(f"/proc/{marker.read_text().strip()}")
    wait_until(lambda: leftovers.of(runtime_dir) == [], timeout=15, message="all that the program started is gone")
    assert not shell.exists()
    assert not (tmp_path / "after").exists()
    assert not list((own_home / "environments").glob("*/.ready"))


def test_a_server_starts_once_tells_its_status_and_stops(own_home: Path, program: str, runtime_dir: Path) -> None:
    started = json.loads(_stoker("server", "start", "--json").stdout)
    assert started["started"] is True
    again = json.loads(_stoker("server", "start", "--json").stdout)
    assert again == {"started": False, "pid": started["pid"], "socket": started["socket"], "doors": []}
    status = json.loads(_stoker("server", "status", "--json").stdout)
    assert status["running"] is True
    assert status["pid"] == started["pid"]
    assert "queued" in _stoker("server", "status").stdout
    assert "stopped" in _stoker("server", "stop").stdout
    assert leftovers.of(runtime_dir) == []
    assert _stoker("server", "stop").stdout == "No server runs.\n"


STOPPED = """
import pathlib, time
import stoker

app = stoker.App("stopped")

def _wait(path: str) -> str:
    begun = pathlib.Path(path)
    if begun.exists():
        return "again"
    begun.touch()
    time.sleep(600)

@app.function()
def wait(path: str) -> str:
    return _wait(path)

@app.function(lost_retries=0)
def once(path: str) -> str:
    return _wait(path)

@app.local_entrypoint()
def main(directory: str):
    for name in ("wait", "once"):
        print(stoker.Function.from_name("stopped", name).spawn(directory + "/" + name).id)
"""


def test_stop_says_what_it_interrupts_and_the_calls_show_it(own_home: Path, tmp_path: Path) -> None:
    (tmp_path / "stopped.py").write_text(STOPPED)
    file = str(tmp_path / "stopped.py")
    _stoker("server", "start")
    _stoker("deploy", file)
    again, once = _stoker("run", file, "--directory", str(tmp_path)).stdout.split()
    wait_until(lambda: (tmp_path / "wait").exists() and (tmp_path / "once").exists(), timeout=60, message="both run")
    assert _stoker("server", "stop").stdout.splitlines() == [
        "1 running call is interrupted and starts again when the server is back; "
        "1 may not run twice (lost_retries=0) and fails.",
        "The server has stopped.",
    ]
    _stoker("server", "start")

    def shown(call: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(_stoker("calls", "show", call, "--json").stdout)
        return found

    try:
        wait_until(lambda: shown(again)["state"] == "succeeded", timeout=60, message="it ran again")
        assert shown(again)["attempts"] == 2
        events = [entry["event"] for entry in shown(again)["timeline"]]
        assert events[:3] == ["queued", "running", "interrupted"]
        assert shown(once)["state"] == "failed"
        assert "the server was stopped while it ran" in shown(once)["error"]
    finally:
        _stoker("server", "stop")


def test_stop_by_force_ends_what_does_not_answer(own_home: Path, program: str, runtime_dir: Path) -> None:
    started = json.loads(_stoker("server", "start", "--json").stdout)
    os.kill(started["pid"], signal.SIGSTOP)
    _stoker("server", "stop", "--force")
    assert leftovers.of(runtime_dir) == []
    assert not [*(runtime_dir / "server").iterdir()]


def test_a_server_that_cannot_start_says_why(own_home: Path, program: str) -> None:
    (own_home / "server").mkdir(parents=True)
    (own_home / "server" / "store.db").write_bytes(b"this is no database, it is a text" * 100)
    done = _stoker("server", "start", status=1)
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("server")
def test_a_deployed_app_is_called_shown_rolled_back_and_stopped(program: str, tmp_path: Path) -> None:
    assert "deployed programs, version 1" in _stoker("deploy", program).stdout
    assert "version 1 (unchanged: its functions are what is deployed)" in _stoker("deploy", program).stdout
    assert "version 1 already" in (said := _stoker("deploy", program, "--canary", "10").stdout) and "no canary" in said
    assert "without ::square" in _stoker("deploy", f"{program}::square", status=2).stderr
    Path(program).write_text(PROGRAM + "# changed\n")
    deployed = json.loads(_stoker("deploy", program, "--json").stdout)[0]
    assert (deployed["version"], deployed["unchanged"]) == (2, False)
    call = (
        'import stoker; call = stoker.Function.from_name("programs", "square").spawn(6); print(call.id, call.result())'
    )
    called = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True, timeout=60)
    call_id, result = called.stdout.split()[-2:]
    assert result == "36"
    assert call_id in _stoker("calls", "list").stdout
    assert "succeeded" in _stoker("calls", "show", call_id).stdout
    assert call_id in _stoker("calls", "show", call_id[:-3]).stdout
    assert "squaring 6" in _stoker("logs", "--call", call_id[:-3]).stdout
    assert "squaring 6" in _stoker("logs", "--call", call_id).stdout
    assert "programs.square" in _stoker("functions", "list").stdout
    assert "programs.square" in _stoker("workers", "list").stdout
    assert "version 3, the same as version 1" in _stoker("apps", "rollback", "programs").stdout
    assert [row["version"] for row in json.loads(_stoker("apps", "history", "programs", "--json").stdout)] == [3, 2, 1]
    _stoker("apps", "stop", "programs")
    assert "No apps." in _stoker("apps", "list").stdout
    other = _stoker("deploy", program, "--name", "renamed").stdout
    assert 'from_name("renamed", "square")' in other


NEEDS = """
import stoker

before = stoker.App("before")

@before.function()
def g() -> None:
    pass

app = stoker.App("needs")

@app.function(image=stoker.Image.python().run_commands({0!r}))
def f() -> None:
    pass

@app.function
def plain() -> None:
    pass
"""
LOOKS_UP = 'import stoker; stoker.Function.from_name("needs", {0!r}).remote()'


@pytest.mark.usefixtures("server")
def test_deploy_builds_what_is_not_there_and_deploys_nothing_that_cannot_be_built(tmp_path: Path) -> None:
    (tmp_path / "needs.py").write_text(NEEDS.format("echo no weights today; exit 7"))
    failed = _stoker("deploy", "needs.py", status=1).stderr
    assert "needs.f: " in failed and "no weights today" in failed and failed.endswith("\nNothing was deployed.\n")
    assert "No apps." in _stoker("apps", "list").stdout, "nor the app before it in the file"
    unbuilt = _stoker("deploy", "needs.py", "--no-build")
    assert "needs.f: the first call waits" in unbuilt.stderr and "`stoker images build needs.py`" in unbuilt.stderr
    assert "plain: runs in your own environment" in unbuilt.stdout
    called = subprocess.run([sys.executable, "-c", LOOKS_UP.format("f")], capture_output=True, text=True, check=False)
    assert "ImageBuildError" in called.stderr
    told = _stoker("functions", "list").stdout
    assert "needs.f: its last worker did not start" in told and "no weights today" in told
    assert "no weights today" in _stoker("logs", "--app", "needs", "--function", "f").stdout

    (tmp_path / "needs.py").write_text(NEEDS.format("echo some weights"))
    assert "needs.f: the environment is ready" in _stoker("deploy", "needs.py").stderr
    assert "environment" not in _stoker("deploy", "needs.py").stderr
    slip = subprocess.run([sys.executable, "-c", LOOKS_UP.format("plian")], capture_output=True, text=True, check=False)
    assert slip.stderr.count("  File ") == 3 and slip.stderr.endswith("Did you mean 'plain'?\n")


SLOW = """
import pathlib, time
import stoker

app = stoker.App("slow")

@app.cls(max_workers=1)
class Model:
    @stoker.enter()
    def load(self) -> None:
        while {0} > 1 and not pathlib.Path("go").exists():
            time.sleep(0.05)

    @stoker.method()
    def version(self) -> int:
        return {0}
"""
ASKS = 'import stoker; print(stoker.Cls.from_name("slow", "Model")().version.remote())'


@pytest.mark.usefixtures("server")
def test_an_interrupted_deploy_says_that_its_version_goes_on(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW.format(1))
    _stoker("deploy", "slow.py")
    assert subprocess.run([sys.executable, "-c", ASKS], capture_output=True, check=True).stdout == b"1\n"
    (tmp_path / "slow.py").write_text(SLOW.format(2))
    process = subprocess.Popen([*STOKER, "deploy", "slow.py"], stderr=subprocess.PIPE, text=True)
    wait_until(
        lambda: json.loads(_stoker("apps", "history", "slow", "--json").stdout)[0]["state"] == "starting",
        timeout=60,
        message="version 2 starts",
    )
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "interrupted: version 2 of slow is made, and takes over once it is ready" in said
    assert "`stoker apps rollback slow` calls it off" in said
    assert "slow is now version 3, the same as version 1" in _stoker("apps", "rollback", "slow").stdout


def test_deploy_without_a_server_does_not_run_the_file(own_home: Path, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("print('the file was run')")
    done = _stoker("deploy", str(tmp_path / "loud.py"), status=1)
    assert "stoker server start" in done.stderr
    assert done.stdout == ""


def _call_by_name(app: str, x: int) -> str:
    code = f"import stoker; print(stoker.Function.from_name({app!r}, 'square').remote({x}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.splitlines()[-1] if not done.returncode else done.stderr.splitlines()[-1]


def test_serve_loads_a_changed_file_again(own_home: Path, program: str, runtime_dir: Path) -> None:
    process = subprocess.Popen([*STOKER, "serve", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None

    def said(prefix: str) -> str:
        """Return what comes next on stdout, but for the lines that say how to call."""
        line = next(line for line in process.stdout if not line.startswith("  "))  # type: ignore[union-attr]
        assert line.startswith(prefix)
        return line

    try:
        said("serving programs.square")
        assert process.stdout.readline() == '  stoker.Function.from_name("programs", "square").remote(…)\n'
        assert _call_by_name("programs", 5) == "25"
        changed = PROGRAM.replace("return x * x", "return x ** 3")
        Path(program).write_text(changed + "\n@app.function()\ndef added() -> None: ...\n")
        said("changed: prog.py")
        assert "programs.added" in said("serving")
        assert _call_by_name("programs", 5) == "125"
        Path(program).write_text("this is no Python")
        said("changed: prog.py")
        wait_until(lambda: "SyntaxError" in process.stderr.readline(), message="the error is shown")  # type: ignore[union-attr]
        assert _call_by_name("programs", 5) == "125", "the last one that loaded answers"
        Path(program).write_text(PROGRAM)
        said("changed: prog.py")
        said("serving programs.square")
        assert _call_by_name("programs", 5) == "25"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert "No server runs" in _call_by_name("programs", 5)
    assert leftovers.of(runtime_dir) == []


@pytest.mark.usefixtures("server")
def test_what_is_served_beside_a_deployed_app_has_a_name_of_its_own(program: str) -> None:
    _stoker("deploy", program)
    Path(program).write_text(PROGRAM.replace("return x * x", "return -x"))
    process = subprocess.Popen([*STOKER, "serve", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "serving programs-dev.square" in process.stdout.readline()
        assert _call_by_name("programs", 5) == "25"
        assert _call_by_name("programs-dev", 5) == "-5"
        assert "served as programs-dev" in _stoker("apps", "list").stdout
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert "There is no deployed app 'programs-dev'" in _call_by_name("programs-dev", 5)
    assert _call_by_name("programs", 5) == "25"

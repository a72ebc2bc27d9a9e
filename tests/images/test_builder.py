"""Real builds with uv, of small packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.client.image import Image
from stoker.errors import ImageBuildError, InterpreterNotFound, NotFound
from stoker.images.builder import EnvironmentBuilder
from stoker.images.environment import list_environments, lock_text, prune
from stoker.images.halts import BuildHalted, Wish
from stoker.types import ImageSpec, ImageStep

from .dict_blobs import Collecting

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
Run = Callable[[str, str], str]


def until(condition: Callable[[], bool], what: str, within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.01)


def test_builds_what_is_asked_for_and_nothing_of_stokers_own(
    builder: EnvironmentBuilder, collect: Collecting, python: Run
) -> None:
    news: list[str] = []
    environment = builder.ensure(Image.python().pip_install("six==1.16.0").to_spec(collect), progress=news.append)
    assert python(environment.python, "import six; print(six.__version__)") == "1.16.0"
    assert python(environment.python, "import importlib.util as u; print(u.find_spec('msgspec'))") == "None"
    assert "six==1.16.0" in environment.lock
    assert news[0] == "resolving 1 requirement"
    assert "installing 1 package" in news
    assert environment.size > 10_000


def test_what_is_installed_is_compiled_and_is_found_so(
    builder: EnvironmentBuilder, collect: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "/nowhere")
    environment = builder.ensure(Image.python(HERE).pip_install("six==1.16.0").to_spec(collect))
    assert list(Path(environment.directory).glob("lib/python*/site-packages/__pycache__/six.*.pyc"))
    assert not {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"} & set(environment.process_env(os.environ))


def test_a_ready_environment_is_found_in_5_ms_without_uv(builder: EnvironmentBuilder, root: Path) -> None:
    spec = ImageSpec(HERE)
    first = builder.ensure(spec)
    again = EnvironmentBuilder(root, builder._blobs)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        assert again.ensure(spec) == first
        took.append(time.perf_counter() - start)
    assert min(took) < 0.005


def test_a_rebuild_installs_what_was_locked_before(
    builder: EnvironmentBuilder, collect: Collecting, root: Path
) -> None:
    spec = Image.python().pip_install("six").to_spec(collect)
    first = builder.ensure(spec)
    lock = root / "locks" / f"{first.recipe}.txt"
    lock.write_text(lock.read_text().replace("six==" + first.lock.split("six==")[1].split()[0], "six==1.15.0"))
    assert prune(root, dry_run=True) == [first]
    assert prune(root) == [first]
    assert "six==1.15.0" in builder.ensure(spec).lock
    prune(root, locks=True)
    assert builder.ensure(spec).lock == first.lock


def test_two_numpys_on_two_pythons(builder: EnvironmentBuilder, collect: Collecting, python: Run) -> None:
    versions = [item.version for item in builder.interpreters.all()]
    minors = list(dict.fromkeys(version.rpartition(".")[0] for version in versions))
    for minor, wanted in ((minors[-1], "numpy<2"), (minors[0], "numpy>=2")):
        environment = builder.ensure(Image.python(minor).pip_install(wanted).to_spec(collect))
        major = python(environment.python, "import numpy; print(numpy.__version__)")[0]
        assert major == ("1" if wanted == "numpy<2" else "2")


def test_conflicting_pins_name_file_and_line(builder: EnvironmentBuilder, collect: Collecting, tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# ours\niniconfig\nsix==1.16.0\n\nsix<1.10  # old\n")
    with pytest.raises(ImageBuildError) as caught:
        builder.ensure(Image.python().requirements(file).to_spec(collect))
    message = str(caught.value)
    assert f"{file}, line 3: six==1.16.0" in message
    assert f"{file}, line 5: six<1.10" in message
    assert "iniconfig" not in message
    assert "unsatisfiable" in caught.value.log


def test_an_unknown_package_names_the_argument(builder: EnvironmentBuilder, collect: Collecting, root: Path) -> None:
    spec = Image.python().pip_install("six", "stoker-has-no-such-package-0").to_spec(collect)
    with pytest.raises(ImageBuildError, match=r"pip_install argument 2: stoker-has-no-such-package-0"):
        builder.ensure(spec)
    assert list_environments(root) == []


def test_a_missing_python_lists_those_there_are(builder: EnvironmentBuilder) -> None:
    with pytest.raises(InterpreterNotFound) as caught:
        builder.ensure(ImageSpec("3.29"))
    assert "no Python 3.29" in str(caught.value)
    assert HERE in str(caught.value)


def test_variables_commands_and_path(builder: EnvironmentBuilder, collect: Collecting) -> None:
    news: list[str] = []
    image = Image.python().env({"GREETING": "hello"}).run_commands('echo "$GREETING from $(which python)" > said')
    environment = builder.ensure(image.to_spec(collect), progress=news.append)
    directory = Path(environment.directory)
    assert (directory / "said").read_text() == f"hello from {directory}/bin/python\n"
    made = environment.process_env({"PATH": "/bin", "PYTHONPATH": "/leak", "HOME": "/h"})
    assert made["GREETING"] == "hello"
    assert made["PATH"] == f"{directory}/bin:/bin"
    assert "PYTHONPATH" not in made
    assert made["VIRTUAL_ENV"] == str(directory)


def test_pip_in_a_command_is_the_environments_own(builder: EnvironmentBuilder, collect: Collecting) -> None:
    image = Image.python().run_commands("python -m pip --version > said")
    environment = builder.ensure(image.to_spec(collect))
    assert environment.directory in (Path(environment.directory) / "said").read_text()


def test_a_failing_command_shows_exit_code_and_output(
    builder: EnvironmentBuilder, collect: Collecting, root: Path
) -> None:
    spec = Image.python().run_commands("true", "echo what went wrong >&2; exit 7").to_spec(collect)
    with pytest.raises(ImageBuildError, match=r"(?s)exit code 7.*exit 7.*what went wrong"):
        builder.ensure(spec)
    assert list_environments(root) == []
    assert not [path for path in root.iterdir() if len(path.name) == 32]


def test_a_command_leaves_no_process_behind(builder: EnvironmentBuilder, collect: Collecting) -> None:
    spec = Image.python().run_commands("sleep 600 & echo $! > pid").to_spec(collect)
    environment = builder.ensure(spec)
    pid = int((Path(environment.directory) / "pid").read_text())
    until(lambda: not _runs(pid), "the sleep ended")


def test_a_function_runs_at_build_time_inside_the_environment(
    builder: EnvironmentBuilder, collect: Collecting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "weights_job.py"
    script.write_text(
        "import os, sys\nimport stoker\nimport weights_helper\n"
        "image = stoker.Image.python().add_local_dir('beside', 'x').requirements('beside/needs.txt')\n"
        "def fetch():\n    import six, cloudpickle, stoker\n"
        "    open('got', 'w').write(weights_helper.NAME + ' ' + sys.prefix + ' ' + os.environ['MODE'])\n"
        "def broken():\n    raise ValueError('no weights today')\n"
    )
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "needs.txt").write_text("six\n")
    (tmp_path / "weights_helper.py").write_text("NAME = 'weights'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import weights_job  # type: ignore[import-not-found]

    collect.script = script
    start = Image.python().pip_install("six").env({"MODE": "build"})
    spec = start.run_function(weights_job.fetch).to_spec(collect)
    environment = builder.ensure(spec)
    assert (Path(environment.directory) / "got").read_text() == f"weights {environment.directory} build"
    with pytest.raises(ImageBuildError, match=r"(?s)broken\(\) failed \(exit code 1\).*no weights today"):
        builder.ensure(start.run_function(weights_job.broken).to_spec(collect))
    (tmp_path / "weights_helper.py").write_text("NAME = 'changed'\n")
    assert builder.ensure(start.run_function(weights_job.fetch).to_spec(collect)) == environment


def test_local_files_and_sources(
    builder: EnvironmentBuilder, collect: Collecting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Run
) -> None:
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    (data / "deep" / "a.txt").write_text("a")
    (tmp_path / "one.txt").write_text("one")
    (tmp_path / "shipped_module.py").write_text("VALUE = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    image = Image.python().add_local_dir(data, "data").add_local_file(tmp_path / "one.txt", "data/deep/")
    spec = image.add_local_python_source("shipped_module").to_spec(collect)
    environment = builder.ensure(spec)
    files = Path(environment.process_env({})["STOKER_FILES"])
    assert (files / "data/deep/a.txt").read_text() == "a"
    assert (files / "data/deep/one.txt").read_text() == "one"
    program = f"import sys; sys.path[:0] = {environment.sys_path!r}; import shipped_module as m; print(m.VALUE)"
    assert python(environment.python, program) == "5"


def test_a_missing_blob_is_an_error_and_leaves_nothing(builder: EnvironmentBuilder, root: Path) -> None:
    step = ImageStep("add_local", {"blob": "0" * 64, "target": "x", "name": "/x", "single": True})
    with pytest.raises(NotFound):
        builder.ensure(ImageSpec(HERE, steps=[step]))
    assert list_environments(root) == []


def test_uv_sync_installs_the_lock(
    builder: EnvironmentBuilder, collect: Collecting, tmp_path: Path, python: Run
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "ours"\nversion = "1"\nrequires-python = ">=3.10"\ndependencies = ["six<1.17"]\n'
    )
    without = builder.ensure(Image.python().uv_sync(tmp_path).to_spec(collect))
    assert "six==1.16.0" in without.lock
    subprocess.run([builder._uv.binary, "lock", "-q", "--upgrade-package", "six==1.15.0"], cwd=tmp_path, check=True)
    locked = builder.ensure(Image.python().uv_sync(tmp_path / "pyproject.toml").to_spec(collect))
    assert python(locked.python, "import six; print(six.__version__)") == "1.15.0"


def test_the_callers_own_environment_is_used_as_it_is(builder: EnvironmentBuilder, collect: Collecting) -> None:
    spec = Image.local().env({"A": "1"}).to_spec(collect)
    environment = builder.ensure(spec)
    assert environment.python == sys.executable
    assert environment.process_env({"PYTHONPATH": "kept"}) == {"PYTHONPATH": "kept", "A": "1"}
    with environment.hold() as held:
        assert held is environment


def test_a_changed_local_environment_says_what_to_do(
    builder: EnvironmentBuilder, collect: Collecting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thing-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = Image.local().to_spec(collect)
    builder.ensure(spec)
    (tmp_path / "thing-1.0.dist-info").rename(tmp_path / "thing-1.1.dist-info")
    with pytest.raises(ImageBuildError, match=r"changed since the image was declared.*Start the program again"):
        builder.ensure(spec)


def test_files_on_top_of_the_local_environment(
    builder: EnvironmentBuilder, collect: Collecting, tmp_path: Path
) -> None:
    (tmp_path / "one.txt").write_text("one")
    environment = builder.ensure(Image.local().add_local_file(tmp_path / "one.txt", "one.txt").to_spec(collect))
    assert environment.python == sys.executable
    assert (Path(environment.variables["STOKER_FILES"]) / "one.txt").read_text() == "one"


def test_threads_share_one_build_and_its_failure(builder: EnvironmentBuilder, collect: Collecting) -> None:
    marks = Path(builder._root).parent / "marks"
    good = Image.python().run_commands(f"echo built >> {marks}").to_spec(collect)
    bad = Image.python().run_commands(f"echo failed >> {marks}; sleep 0.3; exit 3").to_spec(collect)
    results: list[object] = []

    def ask(spec: ImageSpec) -> None:
        try:
            results.append(builder.ensure(spec).key)
        except ImageBuildError as error:
            results.append(str(error))

    threads = [threading.Thread(target=ask, args=(spec,)) for spec in (good, bad) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 2
    assert marks.read_text().split().count("built") == 1


CHILD = """
import sys
from pathlib import Path
from stoker.images.builder import EnvironmentBuilder
from stoker.types import ImageSpec, ImageStep
root, python, command = sys.argv[1:]
spec = ImageSpec(python, steps=[ImageStep("run_commands", {"commands": [command]})])
environment = EnvironmentBuilder(Path(root), None).ensure(spec, progress=lambda line: None)
print(environment.key)
"""


def _child(root: Path, command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), HERE, command],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_build_once(root: Path, tmp_path: Path) -> None:
    command = f"echo built >> {tmp_path}/marks; sleep 0.3"
    children = [_child(root, command) for _ in range(2)]
    keys = [child.communicate(timeout=60)[0] for child in children]
    assert keys[0] == keys[1] != ""
    assert (tmp_path / "marks").read_text() == "built\n"


def test_a_builder_killed_in_the_middle_leaves_nothing_usable(
    builder: EnvironmentBuilder, root: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    command = f"echo $$ > {tmp_path}/pid; touch half; [ -e {go} ] || sleep 600"
    child = _child(root, command)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "", "the command runs")
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=10)
    pid = int((tmp_path / "pid").read_text())
    assert _runs(pid), "an orphan that could still write into the directory"
    assert list_environments(root) == []
    go.touch()
    spec = ImageSpec(HERE, steps=[ImageStep("run_commands", {"commands": [command]})])
    environment = builder.ensure(spec)
    assert not _runs(pid)
    assert [item.environment for item in list_environments(root)] == [environment]
    assert len([path for path in root.iterdir() if len(path.name) == 32]) == 1


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_prune_spares_what_is_held_kept_or_recent(builder: EnvironmentBuilder, root: Path) -> None:
    specs = [ImageSpec(HERE, steps=[ImageStep("env", {"vars": {"N": str(number)}})]) for number in range(3)]
    held, kept, free = [builder.ensure(spec) for spec in specs]
    hold = builder.hold(specs[0])
    assert [item.in_use for item in list_environments(root) if item.environment == held] == [True]
    assert prune(root, older_than=3600) == []
    assert prune(root, keep={kept.key}) == [free]
    assert not Path(free.directory).exists()
    with pytest.raises(NotFound, match="removed just now"):
        free.hold()
    hold.release()
    hold.release()
    assert {item.key for item in prune(root)} == {held.key, kept.key}
    assert builder.hold(specs[2]).environment.key == free.key


def test_prune_removes_what_a_dead_build_left(root: Path) -> None:
    left = root / ("a" * 32)
    left.mkdir(parents=True)
    (left / "half").touch()
    assert prune(root) == []
    assert not left.exists()


def test_a_lock_is_shown_by_the_start_of_its_key(builder: EnvironmentBuilder, collect: Collecting, root: Path) -> None:
    environment = builder.ensure(Image.python().pip_install("six==1.16.0").to_spec(collect))
    assert "six==1.16.0" in lock_text(root, environment.key[:8])
    with pytest.raises(NotFound, match=environment.key[:12]):
        lock_text(root, "zz")


def test_missing_system_packages_are_named_with_the_command(builder: EnvironmentBuilder, collect: Collecting) -> None:
    with pytest.raises(ImageBuildError, match=r"stoker-has-no-such-package"):
        builder.ensure(Image.python().apt_install("stoker-has-no-such-package").to_spec(collect))


def test_a_build_that_nobody_wants_any_more_is_killed_with_all_it_started(
    builder: EnvironmentBuilder, root: Path, tmp_path: Path
) -> None:
    after, pid_file = tmp_path / "after", tmp_path / "pid"
    command = f"echo $$ > {pid_file}; sleep 600; touch {after}"
    spec = ImageSpec(HERE, steps=[ImageStep("run_commands", {"commands": [command]})])
    wishes, errors = [Wish(), Wish()], []

    def ask(wish: Wish) -> None:
        try:
            builder.ensure(spec, wish=wish)
        except BuildHalted as error:
            errors.append(str(error))

    threads = [threading.Thread(target=ask, args=(wish,)) for wish in wishes]
    for thread in threads:
        thread.start()
    until(lambda: pid_file.exists() and pid_file.read_text().strip() != "", "the command runs")
    until(lambda: [len(flight.wishes) for flight in builder._flights.values()] == [2], "both wait for it")
    pid = int(pid_file.read_text())
    wishes[0].withdraw()
    assert _runs(pid), "the other one still waits for it"
    wishes[1].withdraw()
    for thread in threads:
        thread.join(timeout=10)
    assert errors == ["The image was not built to its end: nobody waits for it any more."] * 2
    assert not _runs(pid)
    assert not after.exists()
    assert list_environments(root) == []


def test_a_closed_builder_ends_what_it_builds_and_begins_nothing(
    builder: EnvironmentBuilder, root: Path, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    spec = ImageSpec(HERE, steps=[ImageStep("run_commands", {"commands": [f"echo $$ > {pid_file}; sleep 600"]})])
    errors: list[str] = []

    def ask() -> None:
        try:
            builder.ensure(spec)
        except BuildHalted as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: pid_file.exists() and pid_file.read_text().strip() != "", "the command runs")
    builder.close("the agent is shutting down")
    thread.join(timeout=10)
    pid_file.unlink()
    ask()
    assert errors == ["The image was not built to its end: the agent is shutting down."] * 2
    assert not pid_file.exists()

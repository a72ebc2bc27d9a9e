from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest

from stoker.engine.local import processes
from stoker.protocol.zygotes import Failed, Ready
from stoker.types import CodeRef, Outcome
from tests.runner.harness import Stage, eventually


def test_workers_outlive_their_zygote(stage: Stage) -> None:
    worker = stage.worker("import os\ndef f(): return [os.getpid(), os.getppid(), os.getsid(0)]")
    worker.call("c-1")
    pid, parent, session = worker.result("c-1").value
    assert pid == session == stage.agent.pids[0]
    assert parent == stage.agent.process.pid
    stage.agent.hang_up()
    assert stage.agent.process.wait(10) == 0
    worker.call("c-2")
    assert worker.result("c-2").value[0] == pid
    worker.call("c-3")
    assert worker.result("c-3").outcome is Outcome.VALUE


def test_a_zygote_that_is_not_told_anything_goes_with_its_agent(stage: Stage) -> None:
    stage.agent.begin(stage.config("import time\ntime.sleep(60)\ndef f(): pass"))
    pid = stage.agent.process.pid
    stage.agent.process.kill()
    assert stage.agent.process.wait(10) == -9
    assert processes.start_time(pid) is None


def test_an_import_error_is_reported_with_the_users_traceback(every_python: Stage) -> None:
    failed = every_python.agent.start(every_python.config("def g(): pass\nimport no_such_thing\n"))
    assert isinstance(failed, Failed)
    assert failed.error.type_name == "builtins.ModuleNotFoundError"
    assert "no_such_thing" in failed.error.message
    assert "jobs.py" in failed.error.traceback
    assert "importlib" not in failed.error.traceback
    assert "stoker" not in failed.error.traceback.replace(str(every_python.directory), "")
    assert every_python.agent.process.wait(10) == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def g(): pass", "has no 'f'"),
        ("f = 3", "is no function but a int"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(4)", "SystemExit"),
    ],
)
def test_what_cannot_be_loaded(stage: Stage, source: str, said: str) -> None:
    failed = stage.agent.start(stage.config(source))
    assert isinstance(failed, Failed)
    assert said in f"{failed.error.type_name} {failed.error.message}"


def test_a_missing_workdir_is_an_error_and_a_missing_cwd_is_not(stage: Stage) -> None:
    failed = stage.agent.start(stage.config("def f(): pass", workdir="/no/such/place"))
    assert isinstance(failed, Failed)
    assert "/no/such/place" in failed.error.message
    stage.agent.close()
    assert isinstance(stage.agent.start(stage.config("def f(): pass", cwd="/no/such/place")), Ready)


THREADED = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True, name='busy').start()\n"


def test_a_module_that_starts_threads_is_not_forked_but_started_fresh(stage: Stage) -> None:
    ready = stage.agent.start(stage.config(f"{THREADED}def f(): pass"))
    assert isinstance(ready, Ready)
    assert not ready.forkable
    assert ready.threads == 2
    assert "busy" in ready.reason
    stage.agent.close()
    worker = stage.fresh(
        f"{THREADED}import os\ndef f(x):\n    print('x is', x)\n    return [os.getpid(), os.environ['OMP_NUM_THREADS']]"
    )
    worker.call("c-1", 3)
    assert worker.result("c-1").value == [stage.agent.process.pid, "1"]
    assert ("c-1", "o", "x is 3") in stage.records()


def test_threads_and_variables_of_a_zygote_and_its_worker(stage: Stage) -> None:
    ready = stage.agent.start(
        stage.config(
            """
            import os
            at_import = os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"], os.environ["MINE"]
            def f():
                return [*at_import, os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"],
                        os.environ["OPENBLAS_NUM_THREADS"], os.environ["MINE"], os.environ["EXTRA"]]
            """,
            env={"MINE": "1", "MKL_NUM_THREADS": "5"},
            thread_env={"OPENBLAS_NUM_THREADS": "6"},
        )
    )
    assert isinstance(ready, Ready)
    assert ready.threads == 1
    stage.agent.fork(stage.order(cpus=2.5, env={"EXTRA": "2"}))
    worker = stage.server.accept()
    worker.call("c-1")
    assert worker.result("c-1").value == ["1", "1", "1", "3", "5", "6", "1", "2"]


def test_numpy_computes_on_the_grants_cores_in_a_forked_worker(stage: Stage) -> None:
    ready = stage.agent.start(
        stage.config(
            """
            import numpy, random, threadpoolctl
            warm = numpy.ones((600, 600)) @ numpy.ones((600, 600))
            def f():
                numpy.ones((600, 600)) @ numpy.ones((600, 600))
                pools = {lib["num_threads"] for lib in threadpoolctl.threadpool_info()}
                return [sorted(pools), random.random(), float(numpy.random.random())]
            """
        )
    )
    assert isinstance(ready, Ready)
    assert ready.threads == 1
    drawn = []
    for i in (1, 2):
        stage.agent.fork(replace(stage.order(cpus=2), worker=f"w{i}"))
        worker = stage.server.accept()
        worker.call("c-1")
        pools, *numbers = worker.result("c-1").value
        assert pools == [2]
        drawn += numbers
    assert len(set(drawn)) == 4


def test_limits_are_set_before_user_code_and_their_failure_is_an_end(stage: Stage) -> None:
    source = "import resource\ndef f(): return resource.getrlimit(resource.RLIMIT_NOFILE)[0]"
    assert isinstance(stage.agent.start(stage.config(source)), Ready)
    procs = stage.directory / "cgroup.procs"
    stage.agent.fork(stage.order(rlimits={"NOFILE": 300}, cgroups=[str(procs)]))
    worker = stage.server.accept()
    worker.call("c-1")
    assert worker.result("c-1").value == 300
    assert procs.read_text() == str(stage.agent.pids[0])
    assert stage.log.stat().st_mode & 0o777 == 0o600
    stage.agent.fork(stage.order(cgroups=["/no/such/group/cgroup.procs"]))
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == 70
    assert "could not be confined" in stage.log.read_text()


def test_the_clients_script_answers_to_both_names(stage: Stage) -> None:
    worker = stage.worker(
        """
        import sys
        class Point: pass
        def f():
            import __main__
            return [__main__.Point is Point, __name__, __main__.__file__ == __file__]
        if __name__ == "__main__":
            raise SystemExit("this is the client's part")
        """,
        code=CodeRef("jobs", "f", bundle="0", main_alias=True),
    )
    worker.call("c-1")
    assert worker.result("c-1").value == [True, "jobs", True]


def test_functions_by_value(stage: Stage) -> None:
    offset = 5
    path = stage.directory / "function.pickle"
    path.write_bytes(cloudpickle.dumps(lambda x: x + offset))
    worker = stage.worker("", code=CodeRef(qualname="<lambda>", by_value="0"), by_value_file=str(path))
    worker.call("c-1", 2)
    assert worker.result("c-1").value == 7


def test_what_the_decorator_made_is_unwrapped(stage: Stage) -> None:
    worker = stage.worker(
        """
        class Decorated:
            def __init__(self, f): self.raw_f = f
        class Group:
            @Decorated
            def f(x): return -x
        """,
        code=CodeRef("jobs", "Group.f", bundle="0"),
    )
    worker.call("c-1", 2)
    assert worker.result("c-1").value == -2


def test_the_order_of_the_import_path(stage: Stage) -> None:
    (stage.bundle / "cloudpickle.py").write_text("mine = True\n")
    imposter = stage.directory / "site"
    (imposter / "stoker").mkdir(parents=True)
    (imposter / "stoker" / "__init__.py").write_text("raise RuntimeError('the wrong one')\n")
    (imposter / "jobs.py").write_text("raise RuntimeError('the wrong one')\n")
    stdlib = [entry for entry in __import__("sys").path if "python3" in entry and "site-packages" not in entry]
    worker = stage.worker(
        """
        import sys, cloudpickle, stoker.errors
        def f(): return [sys.path[0], sys.path[-1], cloudpickle.mine, stoker.errors.__file__, sys.argv]
        """,
        sys_path=[str(imposter), *stdlib],
    )
    worker.call("c-1")
    path = str(stage.agent.worker_path)
    assert worker.result("c-1").value == [str(stage.bundle), path, True, f"{path}/stoker/errors.py", [""]]


def test_many_workers_of_one_zygote(stage: Stage) -> None:
    assert isinstance(stage.agent.start(stage.config("def f(): return 1")), Ready)
    for i in range(5):
        stage.agent.fork(replace(stage.order(), worker=f"w{i}"))
        worker = stage.server.accept()
        assert worker.hello.name == f"w{i}"
        worker.call("c-1")
        assert worker.result("c-1").value == 1
        os.kill(stage.agent.pids[-1], 9)
        exited = stage.agent.exited()
        assert (exited.worker, os.waitstatus_to_exitcode(exited.status)) == (f"w{i}", -9)
    eventually(lambda: all(not Path(f"/proc/{pid}").exists() for pid in stage.agent.pids))

"""The steps of a recipe that follow its packages, in the order written."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stoker.blobs.base import BlobStore
from stoker.errors import ImageBuildError
from stoker.images import build_function
from stoker.images.archive import unpack, unpack_once
from stoker.images.code_holds import CodeHold
from stoker.images.command import Finished, run
from stoker.images.environment import Environment
from stoker.images.file_locks import BuildLock
from stoker.images.worker_path import ensure_worker_path
from stoker.types import ImageStep

OUTPUT_SHOWN_LINES = 40  # of a failed command in an error's text; all of it is in the error's log


@dataclass(frozen=True)
class StepRunner:
    """Runs the steps of one build. ``home`` is Stoker's: bundles and the worker path are in it."""

    environment: Environment
    home: Path
    blobs: BlobStore
    lock: BuildLock
    progress: Callable[[str], None]

    def run(self, step: ImageStep) -> None:
        """Run one step; those that concern packages or variables were seen to before.

        Raises:
            ImageBuildError: it failed; exit code and output are in the error.
        """
        if step.kind == "run_commands":
            for command in step.args["commands"]:
                self._run_command(command)
        elif step.kind == "run_function":
            self._run_function(step)
        elif step.kind == "add_local":
            self._add_local(step)
        elif step.kind == "add_python":
            self.progress(f"adding the source of {step.args['name']}")
            unpack(self._blob(step.args["blob"]), Path(self.environment.directory) / "source")

    def _run_command(self, command: str) -> None:
        self.progress(f"running {command}")
        done = self._run(["/bin/sh", "-c", command])
        if done.returncode != 0:
            raise _failed(f"The image's command failed {_ending(done.returncode)}: {command}", done.output)

    def _run_function(self, step: ImageStep) -> None:
        name = step.args.get("name") or step.args["qualname"]
        self.progress(f"running {name}()")
        bundle, pickled = step.args.get("bundle", ""), step.args.get("by_value", "")
        search = list(self.environment.sys_path)
        held = CodeHold(self.home / "bundles", [bundle] if bundle else [])
        if bundle:
            place = self.home / "bundles" / bundle
            search.insert(0, str(place if place.is_dir() else unpack_once(self._blob(bundle), place)))
        pickle_file = Path(self.environment.directory) / ".function.pickle"
        if pickled:
            pickle_file.write_bytes(self._blob(pickled))
        request = {
            "sys_path": search,
            "worker_path": str(ensure_worker_path(self.home)),
            "module": step.args["module"],
            "qualname": step.args["qualname"],
            "pickle": str(pickle_file) if pickled else "",
        }
        program = Path(build_function.__file__).read_text(encoding="utf-8")
        done = self._run([self.environment.python, "-c", program, json.dumps(request)])
        held.release()
        pickle_file.unlink(missing_ok=True)
        if done.returncode != 0:
            raise _failed(f"The image's function {name}() failed {_ending(done.returncode)}", done.output)

    def _add_local(self, step: ImageStep) -> None:
        self.progress(f"adding {step.args['name']}")
        target = Path(self.environment.directory) / "files" / step.args["target"]
        made = Path(self.environment.directory) / ".adding"
        shutil.rmtree(made, ignore_errors=True)
        unpack(self._blob(step.args["blob"]), made)
        try:
            if step.args["single"]:
                target.parent.mkdir(parents=True, exist_ok=True)
                (made / "file").replace(target)
            else:
                shutil.copytree(made, target, symlinks=True, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise ImageBuildError(
                f"{step.args['name']} cannot be put at {step.args['target']!r} in the image: {error}. "
                "Two steps may not put a file and a directory at the same place."
            ) from error
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _run(self, argv: list[str]) -> Finished:
        return run(
            argv,
            cwd=Path(self.environment.directory),
            env={"UV_COMPILE_BYTECODE": "1", **self.environment.process_env(os.environ)},
            lock=self.lock,
            on_line=self.progress,
        )

    def _blob(self, digest: str) -> bytes:
        return self.blobs.get(f"bundle/{digest}")


def check_apt(packages: list[str]) -> None:
    """Check that system packages are installed. None is ever installed from here: they belong to the whole machine.

    Raises:
        ImageBuildError: some are missing; they are named, and the command that installs them.
    """
    if shutil.which("dpkg-query") is None:
        raise ImageBuildError(
            f"The image needs the system packages {', '.join(packages)}, but this node has no dpkg, so apt_install() "
            "cannot be honoured here. Install what they provide by the node's own means, and take apt_install() out of "
            "the image."
        )
    missing = [package for package in packages if not _is_installed(package)]
    if missing:
        sudo = "" if os.geteuid() == 0 else "sudo "
        raise ImageBuildError(
            f"The image needs system packages that this node lacks: {', '.join(missing)}. They change the whole "
            f"machine, so Stoker does not install them itself. Run: {sudo}apt-get install -y {shlex.join(missing)}"
        )


def _is_installed(package: str) -> bool:
    name, _, version = package.partition("=")
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}\\n", name]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    states = [line.split() for line in done.stdout.splitlines()]
    return any(state[0] == "installed" and version in {"", state[-1]} for state in states if state)


def _ending(returncode: int) -> str:
    return f"(signal {-returncode})" if returncode < 0 else f"(exit code {returncode})"


def _failed(what: str, output: str) -> ImageBuildError:
    lines = output.rstrip().splitlines()
    shown = lines[-OUTPUT_SHOWN_LINES:]
    skipped = f"\n  … {len(lines) - len(shown)} earlier lines are in the error's log" if len(lines) > len(shown) else ""
    text = "".join(f"\n  {line}" for line in shown)
    return ImageBuildError(f"{what}. Its output:{skipped}{text or ' none'}", log=output)

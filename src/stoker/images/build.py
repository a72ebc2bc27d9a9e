"""One build: from a recipe to an environment that is ready, under a lock that its caller holds."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stoker.blobs.base import BlobStore
from stoker.errors import InterpreterNotFound
from stoker.images import frozen as frozen_images
from stoker.images.agreeing import Agree, alone, lock_name
from stoker.images.command import Finished
from stoker.images.environment import LOCK_FILE, RECIPE, Environment, make_ready
from stoker.images.file_locks import BuildLock
from stoker.images.interpreters import Interpreter
from stoker.images.local import local_environment
from stoker.images.recipe import Packages, environment_key, packages_of, variables_of
from stoker.images.resolver import build_error, resolve
from stoker.images.steps import StepRunner, check_apt
from stoker.images.uv_tool import Uv
from stoker.types import FrozenPython, ImageSpec, LocalPython

FILES_VARIABLE = "STOKER_FILES"  # where the function finds what add_local_* copied
_CALLS_PIP = re.compile(r"\bpip\d?\b")


@dataclass(frozen=True)
class Build:
    """What one build needs. ``root`` has the environments; ``home`` the bundles and the worker path."""

    recipe: str
    spec: ImageSpec
    root: Path
    home: Path
    blobs: BlobStore
    uv: Uv
    lock: BuildLock
    progress: Callable[[str], None]
    node: str = "this node"
    agree: Agree = alone

    def on_local(self, local: LocalPython) -> Environment:
        """Build what goes on top of the caller's own environment: files and sources."""
        self._check_system()
        key = environment_key(self.recipe, "", local.executable)
        directory = self._fresh(key)
        bare = local_environment(self.spec, local)
        return self._finish(
            replace(bare, key=key, directory=str(directory), recipe=self.recipe, created=time.time()), directory
        )

    def on_interpreter(self, interpreter: Interpreter) -> Environment:
        """Resolve, install, and run the remaining steps.

        Raises:
            ImageBuildError: one of them failed; nothing usable is left.
        """
        self._check_system()
        packages = packages_of(self.spec)
        locked = self._lock_text(packages, interpreter)
        key = environment_key(self.recipe, locked, f"{interpreter.version} {interpreter.path}")
        directory = self._fresh(key)
        try:
            self._make_venv(interpreter, directory)
            self._install(locked, packages, interpreter, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return self._finish(self._draft(key, directory, interpreter), directory)

    def on_frozen(self, digest: str, find: Callable[[], Interpreter]) -> Environment:
        """Build the caller's own environment anew, from its description.

        Raises:
            InterpreterNotFound: this node lacks its minor version of Python.
            ImageBuildError: something in it cannot be had here; nothing usable is left.
        """
        self._check_system()
        frozen = frozen_images.read_frozen(self.blobs, digest, node=self.node)
        try:
            interpreter = find()
        except InterpreterNotFound as error:
            raise InterpreterNotFound(f"Image.local() is the caller's own environment. {error}") from error
        self.progress(f"building the caller's own environment anew, for Python {interpreter.version}")
        locked = frozen_images.lock_of(frozen)
        key = environment_key(self.recipe, locked, f"{interpreter.version} {interpreter.path}")
        directory = self._fresh(key)
        try:
            self._make_venv(interpreter, directory)
            self._install_frozen(frozen, locked, interpreter, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return self._finish(self._draft(key, directory, interpreter), directory)

    def _draft(self, key: str, directory: Path, interpreter: Interpreter) -> Environment:
        return Environment(
            key=key,
            directory=str(directory),
            python=str(directory / "bin" / "python"),
            python_version=interpreter.version,
            created=time.time(),
            recipe=self.recipe,
        )

    def _check_system(self) -> None:
        for step in self.spec.steps:
            if step.kind == "apt_install":
                check_apt(step.args["packages"])

    def _lock_text(self, packages: Packages, interpreter: Interpreter) -> str:
        """Return the lock that all nodes go by: of an earlier build of this recipe, else a new one, which is kept."""
        if packages.empty:
            return self._own_lock(packages, interpreter)
        name, kept = lock_name(self.recipe, interpreter.version), self.root / "locks" / f"{self.recipe}.txt"
        agreed = self.agree(name, "") or self.agree(name, self._own_lock(packages, interpreter))
        if not kept.exists() or kept.read_text(encoding="utf-8") != agreed:
            _write_whole(kept, agreed)
        return agreed

    def _own_lock(self, packages: Packages, interpreter: Interpreter) -> str:
        kept = self.root / "locks" / f"{self.recipe}.txt"
        stamp = f"# Python {interpreter.version}\n"
        try:
            text = kept.read_text(encoding="utf-8")
        except OSError:
            text = ""
        if text.startswith(stamp):
            return text
        scratch = self.root / "resolving" / self.recipe
        pinned = resolve(packages, interpreter, uv=self.uv, scratch=scratch, lock=self.lock, progress=self.progress)
        _write_whole(kept, stamp + pinned)
        return stamp + pinned

    def _fresh(self, key: str) -> Path:
        """Return the directory of an environment, emptied of what a build that died left there."""
        directory = self.root / key
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (directory / RECIPE).write_text(self.recipe)
        return directory

    def _make_venv(self, interpreter: Interpreter, directory: Path) -> None:
        commands = [text for step in self.spec.steps if step.kind == "run_commands" for text in step.args["commands"]]
        # Without a pip of its own, `pip install` in a command would reach the machine's and install there.
        seed = ["--seed"] if any(_CALLS_PIP.search(command) for command in commands) else []
        arguments = ["venv", "--allow-existing", "--no-project", *seed, "--python", interpreter.path, str(directory)]
        done = self.uv.run(*arguments, cwd=directory, lock=self.lock, progress=self.progress)
        if done.returncode != 0:
            raise build_error("Its virtual environment could not be made", done.output, [], interpreter)

    def _install(self, locked: str, packages: Packages, interpreter: Interpreter, directory: Path) -> None:
        (directory / LOCK_FILE).write_text(locked, encoding="utf-8")
        count = sum(not line.startswith((" ", "#", "-")) for line in locked.splitlines() if line.strip())
        if not count:
            return
        self.progress(f"installing {count} package{'s' * (count != 1)}")
        options = directory / ".options.txt"
        options.write_text("\n".join(packages.options) + "\n", encoding="utf-8")
        more = ["-r", options.name] if packages.options else []
        done = self.uv.run(
            *("pip", "install", "--no-deps", "--compile-bytecode", "--python", str(directory / "bin" / "python")),
            *("-r", LOCK_FILE, *more, *packages.arguments),
            cwd=directory,
            lock=self.lock,
            progress=self.progress,
        )
        options.unlink()
        if done.returncode != 0:
            raise build_error("Its packages could not be installed", done.output, packages.wanted, interpreter)

    def _install_frozen(self, frozen: FrozenPython, locked: str, interpreter: Interpreter, directory: Path) -> None:
        (directory / LOCK_FILE).write_text(locked, encoding="utf-8")
        wheels = frozen_images.put_wheels(frozen, self.blobs, directory)
        count = len(frozen.distributions)
        if not count:
            return

        def install(wanted: Sequence[str], *more: str) -> Finished:
            target = ("pip", "install", "--no-deps", "--python", str(directory / "bin" / "python"))
            return self.uv.run(*target, *more, *wanted, cwd=directory, lock=self.lock, progress=self.progress)

        self.progress(f"installing {count} package{'s' * (count != 1)}")
        done = install(wheels, "--compile-bytecode", "-r", LOCK_FILE)
        if done.returncode != 0:
            raise frozen_images.failure(
                frozen, done, look=lambda wanted: install(wanted, "--dry-run"), node=self.node, interpreter=interpreter
            )
        shutil.rmtree(directory / frozen_images.WHEELS, ignore_errors=True)

    def _finish(self, draft: Environment, directory: Path) -> Environment:
        """Run the remaining steps and make the environment usable."""
        kinds = {step.kind for step in self.spec.steps}
        files = str(directory / "files") if "add_local" in kinds else ""
        source = [str(directory / "source")] if "add_python" in kinds else []
        variables = {**({FILES_VARIABLE: files} if files else {}), **variables_of(self.spec)}
        environment = replace(draft, files=files, sys_path=[*source, *draft.sys_path], variables=variables)
        runner = StepRunner(environment, self.home, self.blobs, self.lock, self.progress)
        try:
            for step in self.spec.steps:
                self.lock.halt.check()
                runner.run(step)
            self.lock.halt.check()
            made = make_ready(environment)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        _write_whole(self.root / "recipes" / self.recipe, made.key)
        self.progress("the environment is ready")
        return made


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)

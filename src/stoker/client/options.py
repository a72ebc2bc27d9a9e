"""A function's options, stated once: `App.function`, `Function.with_options` and the command line share them."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from stoker.client.batches import Batch
from stoker.client.gangs import Gang
from stoker.client.names import fields_checked
from stoker.errors import InvalidOption
from stoker.quantities import parse_duration, parse_size
from stoker.types import BatchSpec, GangSpec, OptionsSpec, RetrySpec

if TYPE_CHECKING:
    from stoker.client.image import Image

PRIORITY_MAX = 1000
LATER = {
    "gpu": "GPUs",
    "secrets": "secrets",
    "volumes": "volumes",
    "schedule": "schedules",
    "isolation": "sandboxes",
}
"""Options of later versions: known by name, so that whoever writes one is told more than "unknown"."""


@fields_checked
@dataclass(frozen=True)
class Retries:
    """When a failed attempt is followed by another: the n-th retry waits ``initial_delay * backoff ** (n - 1)``.

    Exceptions, timeouts and running out of memory count. ``on`` names the exceptions worth another try (their
    subclasses included); empty means every one. Delays are seconds, ``"5s"`` or a `timedelta`.
    """

    max_retries: int = 2
    initial_delay: float | str | timedelta = 1.0
    backoff: float = 2.0
    max_delay: float | str | timedelta = 60.0
    on: Sequence[type[BaseException]] = ()

    def __post_init__(self) -> None:
        self.to_spec()

    def to_spec(self) -> RetrySpec:
        """Return the checked form that travels."""
        if not _is_number(self.backoff) or self.backoff < 1:
            raise InvalidOption(f"Retries(backoff={self.backoff!r}): the factor between two delays is at least 1.")
        on = (self.on,) if isinstance(self.on, type) else tuple(self.on)
        for kind in on:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise InvalidOption(f"Retries(on=…) takes exception types; {kind!r} is none.")
        return RetrySpec(
            max_retries=_count("Retries(max_retries", self.max_retries),
            initial_delay=parse_duration(self.initial_delay, option="Retries(initial_delay)", zero=True),
            backoff=float(self.backoff),
            max_delay=parse_duration(self.max_delay, option="Retries(max_delay)", zero=True),
            on=[f"{kind.__module__}.{kind.__qualname__}" for kind in on],
        )


LEAST_MEMORY_BYTES = 1 << 20  # less is a unit forgotten


class PlainOptions(TypedDict, total=False):
    """The options as an editor shows them; `FunctionOptions` says what each means."""

    image: Image | None
    cpu: float
    memory: int | str | None
    env: Mapping[str, str]
    workdir: str
    timeout: float | str | timedelta
    startup_timeout: float | str | timedelta
    retries: int | Retries
    lost_retries: int
    min_workers: int
    max_workers: int | None
    buffer_workers: int
    idle_timeout: float | str | timedelta
    concurrency: int
    max_pending: int
    deadline: float | str | timedelta | None
    recycle_after: int | None
    recycle_memory: int | str | None
    priority: int
    tags: Mapping[str, str]
    gang: Gang | None


class Options(PlainOptions, total=False):
    """All of them: with a batch, callers give one item where the function takes a list."""

    batch: Batch | None


@dataclass(frozen=True)
class FunctionOptions:
    """What a function needs and how it is run.

    Attributes:
        image: the environment; None is the caller's own.
        cpu: cores that one worker holds; fractions are fine.
        memory: a limit such as ``"512MiB"``; over it the attempt fails with `OutOfMemory`. None: no limit.
        env: environment variables of the worker.
        workdir: the worker's working directory, in full.
        timeout: per attempt, waiting in the queue excluded.
        startup_timeout: for a worker to import the function's module.
        retries: for exceptions, timeouts and memory; a number, or `Retries`.
        lost_retries: attempts after one whose worker died under it; 0 for calls that must not run twice.
        min_workers: kept while the app runs.
        max_workers: at most so many; None: by capacity.
        buffer_workers: idle ones held ready beyond those that are busy.
        idle_timeout: after which an idle worker ends.
        concurrency: inputs at once in one worker: async functions as tasks, others as threads.
        max_pending: calls that wait; beyond it single calls are `Overloaded`, maps wait.
        deadline: for the answer, counted from arrival; None: no deadline.
        recycle_after: calls after which a worker is replaced; None: never.
        recycle_memory: what a worker may hold, such as ``"2GiB"``, before it is replaced; None: it is not looked at.
        priority: higher goes first.
        tags: what usage is reported by.
        gang: how many workers run each call together, with ranks; None: one alone.
        batch: how many calls are run together, as lists of inputs; None: each by itself.
    """

    image: Image | None = None
    cpu: float = 1.0
    memory: int | str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    timeout: float | str | timedelta = 3600.0
    startup_timeout: float | str | timedelta = 600.0
    retries: int | Retries = 0
    lost_retries: int = 2
    min_workers: int = 0
    max_workers: int | None = None
    buffer_workers: int = 0
    idle_timeout: float | str | timedelta = 60.0
    concurrency: int = 1
    max_pending: int = 100_000
    deadline: float | str | timedelta | None = None
    recycle_after: int | None = None
    recycle_memory: int | str | None = None
    priority: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    gang: Gang | None = None
    batch: Batch | None = None

    def __post_init__(self) -> None:
        self.to_spec()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FunctionOptions:
        """Return options from keywords.

        Raises:
            InvalidOption: a name is unknown (the nearest is suggested), of a later version, or a value is malformed.
        """
        check_names(given)
        return cls(**given)

    def changed(self, given: Mapping[str, Any]) -> FunctionOptions:
        """Return these options with some replaced."""
        check_names(given)
        return dataclasses.replace(self, **given)

    def over(self, *, image: Image | None, env: Mapping[str, str], tags: Mapping[str, str]) -> FunctionOptions:
        """Return these options over an app's defaults: what is said here wins, name by name in env and tags."""
        return dataclasses.replace(self, image=self.image or image, env={**env, **self.env}, tags={**tags, **self.tags})

    def to_spec(self) -> OptionsSpec:
        """Return the options as they travel, the image apart.

        Raises:
            InvalidOption: a value is malformed; the message names the option and shows what it takes.
        """
        _check_image(self.image)
        spec = OptionsSpec(
            cpu=_cores(self.cpu),
            memory=_memory(self.memory),
            env=_texts("env", self.env),
            workdir=_workdir(self.workdir),
            timeout=parse_duration(self.timeout, option="timeout"),
            startup_timeout=parse_duration(self.startup_timeout, option="startup_timeout"),
            retries=_retries(self.retries),
            lost_retries=_count("lost_retries", self.lost_retries),
            min_workers=_count("min_workers", self.min_workers),
            max_workers=None if self.max_workers is None else _count("max_workers", self.max_workers, least=1),
            buffer_workers=_count("buffer_workers", self.buffer_workers),
            idle_timeout=parse_duration(self.idle_timeout, option="idle_timeout", zero=True),
            concurrency=_count("concurrency", self.concurrency, least=1),
            max_pending=_count("max_pending", self.max_pending, least=1),
            deadline=None if self.deadline is None else parse_duration(self.deadline, option="deadline"),
            recycle_after=None if self.recycle_after is None else _count("recycle_after", self.recycle_after, least=1),
            recycle_memory=_recycle_memory(self.recycle_memory),
            priority=_priority(self.priority),
            tags=_texts("tags", self.tags),
            gang=_gang(self.gang),
            batch=_batch(self.batch),
        )
        if spec.max_workers is not None and spec.min_workers > spec.max_workers:
            raise InvalidOption(f"min_workers={spec.min_workers} is more than max_workers={spec.max_workers}.")
        if spec.recycle_memory is not None and spec.memory is not None and spec.recycle_memory >= spec.memory:
            raise InvalidOption(
                f"recycle_memory={self.recycle_memory!r} is not below memory={self.memory!r}, at which a worker is "
                "killed: it would never be replaced in time. Write less."
            )
        if spec.gang is not None:
            _check_gang(spec, spec.gang)
        return spec


NAMES = tuple(option.name for option in dataclasses.fields(FunctionOptions))


def check_names(given: Mapping[str, Any]) -> None:
    """Raise `InvalidOption` for a name that is no option, with the nearest that is."""
    for name in given:
        if name in NAMES:
            continue
        if name in LATER:
            raise InvalidOption(f"{name}=… is not available in this version of Stoker: {LATER[name]} come later.")
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"Options are: {', '.join(NAMES)}."
        raise InvalidOption(f"There is no option {name!r}. {hint}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _count(option: str, value: Any, *, least: int = 0) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    closing = ")" if "(" in option else ""
    raise InvalidOption(f"{option}={value!r}{closing} is not a whole number of at least {least}.")


def _cores(value: Any) -> float:
    if _is_number(value) and value > 0:
        return float(value)
    raise InvalidOption(f"cpu={value!r} is not a number of cores. Write a positive number, as in cpu=2 or cpu=0.5.")


def _memory(value: Any) -> int | None:
    if value == "auto":
        raise InvalidOption('memory="auto" is not available in this version of Stoker. Write a size, as in "2GiB".')
    if value is None:
        return None
    size = parse_size(value, option="memory")
    if size < LEAST_MEMORY_BYTES:
        number = size if isinstance(value, int) else str(value).rstrip("bBiI ")
        raise InvalidOption(
            f'memory={value!r} is {size} bytes, with which no Python starts. Did you mean "{number}MiB"?'
            if str(number).isdigit()
            else f"memory={value!r} is {size} bytes, with which no Python starts."
        )
    return size


def _recycle_memory(value: Any) -> int | None:
    return None if value is None else parse_size(value, option="recycle_memory")


def _retries(value: Any) -> RetrySpec:
    if isinstance(value, Retries):
        return value.to_spec()
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return RetrySpec(max_retries=value)
    raise InvalidOption(f"retries={value!r} is neither a whole number of at least 0 nor stoker.Retries(…).")


def _gang(value: Any) -> GangSpec | None:
    if value is None or isinstance(value, Gang):
        return None if value is None else value.to_spec()
    raise InvalidOption(f"gang={value!r} is not a gang. Write gang=stoker.Gang(size=4).")


def _batch(value: Any) -> BatchSpec | None:
    if value is None or isinstance(value, Batch):
        return None if value is None else value.to_spec()
    raise InvalidOption(f'batch={value!r} is no batch. Write batch=stoker.Batch(max_size=32, max_wait="5ms").')


def _check_gang(spec: OptionsSpec, gang: GangSpec) -> None:
    """Raise `InvalidOption` for what means nothing where each call has several workers."""
    if spec.batch is not None:
        raise InvalidOption(
            "batch=… runs many calls in one worker, and a gang each call in many. Leave one of them out."
        )
    if spec.concurrency > 1:
        raise InvalidOption(f"concurrency={spec.concurrency}: a gang runs one call at a time. Leave concurrency out.")
    for name in ("recycle_after", "recycle_memory"):
        if getattr(spec, name) is not None:
            raise InvalidOption(f"{name}=… replaces single workers, and a gang's start and end together. Leave it out.")
    if gang.is_elastic and not spec.lost_retries:
        raise InvalidOption(
            "lost_retries=0 is for calls that must not run twice, and an elastic gang runs again what it did when a "
            "rank was lost. Leave it out, or give the gang one size."
        )
    for name in ("min_workers", "max_workers", "buffer_workers"):
        count = getattr(spec, name)
        if count and count % gang.most:
            raise InvalidOption(
                f"{name}={count} counts workers, of which each gang has {gang.most}: write a multiple of {gang.most}."
            )


def _priority(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= PRIORITY_MAX:
        return value
    raise InvalidOption(f"priority={value!r} is not a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}.")


def _text(option: str, value: Any) -> str:
    if isinstance(value, str) and "\0" not in value:
        return value
    raise InvalidOption(f"{option}={value!r} is not a text.")


def _workdir(value: Any) -> str:
    path = _text("workdir", value)
    if path and not path.startswith("/"):
        raise InvalidOption(
            f"workdir={path!r} is a relative path, which begins nowhere on the machine that the worker will run on. "
            "Write it in full; a directory of yours can be given as str(pathlib.Path(__file__).parent / …)."
        )
    return path


def _texts(option: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidOption(f'{option}={value!r} is not a dictionary. Write {option}={{"NAME": "value"}}.')
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise InvalidOption(f"{option}: {name!r} is not a name.")
        if not isinstance(text, str) or "\0" in text:
            raise InvalidOption(
                f"{option}[{name!r}]={text!r} is not a text. Write {option}={{{name!r}: {str(text)!r}}}."
            )
    return dict(value)


def _check_image(value: Any) -> None:
    if value is not None and not callable(getattr(value, "to_spec", None)):
        raise InvalidOption(
            f'image={value!r} is not an image. Write stoker.Image.python("3.12").pip_install(…), or another of '
            "stoker.Image's constructors."
        )

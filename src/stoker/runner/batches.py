"""Calls that run together: one list for each argument, one result for each call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stoker.errors import CallError
from stoker.runner.attempts import Attempt, Resolved
from stoker.runner.callables import Target
from stoker.runner.patience import Patience
from stoker.types import BatchSpec

if TYPE_CHECKING:
    from stoker.runner.outbox import Payload
    from stoker.runner.worker import Worker

_IMMUTABLE = frozenset({int, float, str, bool, bytes, type(None)})


class Group:
    """Attempts of one target that give the same arguments, by name and number."""

    def __init__(self, target: Target, shape: tuple[int, tuple[str, ...]]) -> None:
        self.target = target
        self.attempts: list[Attempt] = []
        self.args: list[list[Any]] = [[] for _ in range(shape[0])]
        self.kwargs: dict[str, list[Any]] = {name: [] for name in shape[1]}

    @classmethod
    def of_all(cls, resolved: list[tuple[Attempt, Resolved]]) -> Group | None:
        """Return all of these as one, at a glance: None where that takes more, or they are none or of several."""
        if not resolved:
            return None
        target, args, kwargs = resolved[0][1]
        count, names = len(args), kwargs.keys()
        if target.batch is None:
            return None
        for _, (other, given, named) in resolved:
            if other is not target or len(given) != count or named.keys() != names:
                return None
        group = cls(target, (0, ()))
        group.attempts = [attempt for attempt, _ in resolved]
        group.args = [[given[i] for _, (_, given, _) in resolved] for i in range(count)]
        group.kwargs = {name: [named[name] for _, (_, _, named) in resolved] for name in names}
        return group

    def add(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.attempts.append(attempt)
        for column, value in zip(self.args, args):  # noqa: B905 - 3.10 knows it, and they are of one length
            column.append(value)
        for name, value in kwargs.items():
            self.kwargs[name].append(value)

    def call(self) -> Any:
        return self.target.call(*self.args, **self.kwargs)

    def only(self) -> tuple[Attempt, Target, tuple[Any, ...], dict[str, Any]]:
        """Return the one attempt of a target that is not batched, and its arguments."""
        (attempt,) = self.attempts
        args = tuple(column[0] for column in self.args)
        return attempt, self.target, args, {name: column[0] for name, column in self.kwargs.items()}


class Gathering:
    """One batch in the making: an attempt with those of its method that wait behind it, and that come while it is worth
    waiting."""

    def __init__(self, worker: Worker, first: Attempt, *, size: int, patience: Patience) -> None:
        self.found = [first]
        self._worker = worker
        self._size = size
        self._patience = patience
        self._until = 0.0

    def look(self, now: float) -> float:
        """Take what is there; return the seconds for which more may be waited for, 0 when it is complete."""
        desk, found = self._worker.desk, self.found
        found += self._worker.take_more(self._size - len(found), method=found[0].method)
        self._until = self._until or now + self._patience.seconds(len(found))
        # Whatever else waits here is of another method: it would wait for nothing. So would who has given up.
        is_enough = len(found) >= self._patience.enough or now >= self._until
        if is_enough or desk.draining or desk.waiting or all(one.interrupt for one in found):
            self._patience.ran(len(found))
            return 0.0
        return self._until - now


class Batches:
    """Makes groups of attempts, and reports of what came of them. ``size`` is how many are gathered at most."""

    def __init__(self, worker: Worker) -> None:
        spec = worker.config.batch
        assert spec is not None
        self.size = spec.max_size
        self._worker = worker
        # By method; of a function, and where no lease says of which method a call is, by "".
        specs = {name: method.batch for name, method in worker.config.methods.items()}
        self._specs: dict[str, BatchSpec | None] = {**specs, "": spec}
        self._patience = {name: Patience(one) for name, one in self._specs.items() if one is not None}

    def gathering(self, first: Attempt) -> Gathering | None:
        """Return what gathers a batch behind this attempt; None where it is of a method that runs call by call."""
        spec = self._specs.get(first.method)
        if spec is None:
            return None
        return Gathering(self._worker, first, size=spec.max_size, patience=self._patience[first.method])

    def gather(self, first: Attempt, *, wait: Callable[[float], None]) -> list[Attempt]:
        """Return an attempt with all that are to run with it.

        ``wait`` returns when something may have come, or so many seconds are over.
        """
        gathering = self.gathering(first)
        if gathering is None:
            return [first]
        while left := gathering.look(began := time.monotonic()):
            for attempt in gathering.found:  # the time is there
                self._worker.read_ahead(attempt)
            wait(max(0.0, began + left - time.monotonic()))
        return gathering.found

    def in_turn(self, attempts: list[Attempt]) -> Iterator[Group]:
        """Yield the groups of attempts that have begun, each when it is to run: only then does its time begin."""
        groups = self.grouped(attempts)
        for group in groups[1:]:
            for attempt in group.attempts:
                attempt.started = 0.0
        for group in groups:
            interrupts = [attempt.interrupt for attempt in group.attempts]
            if all(interrupts) and (first := interrupts[0]) is not None:  # nobody wants it any more
                self.fail(group, first.exception())
                continue
            for attempt in group.attempts:
                attempt.started = attempt.started or time.monotonic()
            yield group

    def grouped(self, attempts: list[Attempt]) -> list[Group]:
        """Return the groups of these attempts, in the order of their first ones; those without a valid input end here.

        What is not batched is a group by itself.
        """
        resolved = self._resolved(attempts)
        alone = Group.of_all(resolved)
        if alone is not None:
            return [alone]
        groups: dict[Any, Group] = {}
        for attempt, (target, args, kwargs) in resolved:
            shape = len(args), tuple(sorted(kwargs))
            key = (target, shape) if target.batch is not None else attempt.key
            if key not in groups:
                groups[key] = Group(target, shape)
            groups[key].add(attempt, args, kwargs)
        return list(groups.values())

    def _resolved(self, attempts: list[Attempt]) -> list[tuple[Attempt, Resolved]]:
        """Return these with what they run and with what; those that have no valid input, or are cancelled, end here."""
        found: list[tuple[Attempt, Resolved]] = []
        for attempt in attempts:
            if attempt.interrupt is not None:  # it was cancelled while others were waited for
                self._finish(attempt, None)
                continue
            try:
                found.append((attempt, attempt.ahead or self._worker.resolve(attempt)))
            except BaseException as error:  # noqa: BLE001 - opening an input runs user code
                self._worker.finish(attempt, self._worker.reports.of_error(attempt, error), flush=False)
        return found

    @staticmethod
    def may_end_later(values: Any) -> bool:
        """Tell whether what a batch has returned is the same later: what can be changed may be written over by the next
        batch, as a buffer of results is."""
        return type(values) in {list, tuple} and _IMMUTABLE.issuperset(map(type, values))

    def end(self, group: Group, values: Any) -> None:
        """Report what a batch has returned: one result for each call."""
        for _ in self.ending(group, values, every=len(group.attempts)):
            pass

    def ending(self, group: Group, values: Any, *, every: int) -> Iterator[None]:
        """Do so piece by piece, so many results at a time; who iterates may flush after each."""
        group.attempts[0].batch = len(group.attempts)
        try:
            label, method = self._worker.config.label, group.target.method
            results = _one_each(values, len(group.attempts), f"{label}.{method}" if method else label)
        except Exception as error:  # noqa: BLE001 - iterating over what was returned may run user code
            self.fail(group, error)
            yield
            return
        encoded: list[tuple[Attempt, Payload]] = []
        for attempt, value in zip(group.attempts, results):  # noqa: B905 - `_one_each` has counted them
            if isinstance(value, BaseException) or attempt.interrupt is not None or attempt.channel is not None:
                self._finish(attempt, value)
                continue
            try:
                encoded.append((attempt, self._worker.reports.encode_result(attempt, value)))
            except BaseException as error:  # noqa: BLE001 - for one result that cannot travel the others are no worse
                self._finish(attempt, error)
            if len(encoded) == every:
                self._worker.finish_all(encoded)
                encoded = []
                yield
        if encoded:
            self._worker.finish_all(encoded)
        yield

    def fail(self, group: Group, error: BaseException) -> None:
        """Report that a batch has raised: each of its calls has."""
        group.attempts[0].batch = len(group.attempts)
        for attempt in group.attempts:
            self._finish(attempt, error)

    def _finish(self, attempt: Attempt, value: Any) -> None:
        """Report one result; an exception is one that this call alone has raised."""
        # One that was cancelled meanwhile, while the others went on, counts as interrupted.
        attempt.raised = attempt.interrupt is not None
        reports = self._worker.reports
        try:
            if isinstance(value, BaseException):
                report = reports.of_error(attempt, value)
            else:
                report = reports.of_value(attempt, reports.encode_result(attempt, value))
        except BaseException as error:  # noqa: BLE001 - for one result that cannot travel the others are no worse
            report = reports.of_error(attempt, error)
        self._worker.finish(attempt, report, flush=False)


def _one_each(values: Any, count: int, label: str) -> list[Any]:
    """Return what a batch has returned, as a list.

    Raises:
        CallError: it is no list, or not of one result for each input.
    """
    rule = f"{label} takes batches: it has to return one result for each of its inputs, in their order"
    if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__len__") or not hasattr(values, "__iter__"):
        said = f"{rule}, as a list. It was given {count} and returned {_named(values)}."
        raise CallError(said, function=label)
    if len(values) != count:
        raise CallError(f"{rule}. It was given {count} and returned {len(values)}.", function=label)
    return list(values)


def _named(value: Any) -> str:
    """Return the type of a value with its article: ``an int``."""
    name = type(value).__name__
    return name if value is None else f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"

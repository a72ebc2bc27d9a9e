"""When a call that failed or lost its worker gets another attempt."""

from __future__ import annotations

from stoker.types import ErrorInfo, OptionsSpec, RetrySpec

LOSS_DELAY_SECONDS = 0.25  # after a call's second lost worker, and twice as much after each that follows
LOSS_DELAY_MAX_SECONDS = 30.0


def delay(spec: RetrySpec, failures: int) -> float:
    """Return the seconds to wait before the retry that follows the n-th failure (n from 1)."""
    try:
        return min(spec.max_delay, spec.initial_delay * spec.backoff ** (failures - 1))
    except OverflowError:  # after a thousand failures or so
        return spec.max_delay


def loss_delay(losses: int) -> float:
    """Return the seconds to wait after the n-th loss (n from 1) of a worker that ended by itself.

    The first may have had any reason. After that the call itself is suspected, and others are run before it.
    """
    return 0.0 if losses < 2 else min(LOSS_DELAY_MAX_SECONDS, LOSS_DELAY_SECONDS * 2.0 ** min(losses - 2, 30))


def wants_retry(options: OptionsSpec, failures: int, error: ErrorInfo | None) -> bool:
    """Tell whether the n-th failure is followed by another attempt.

    An exception counts only if one of its bases is named in ``on``; with no names, all count. Timeouts and running out
    of memory carry their own names (``CallTimeout``, ``OutOfMemory``).
    """
    spec = options.retries
    if failures > spec.max_retries:
        return False
    if not spec.on or error is None:
        return True
    names = {error.type_name, *error.mro}
    return any(name in names or any(n.endswith(f".{name}") for n in names) for name in spec.on)


def survives_loss(options: OptionsSpec, losses: int) -> bool:
    """Tell whether a call that lost a worker for the n-th time is run again."""
    return losses <= options.lost_retries

"""What running code gets when it is to stop: exceptions that ``except Exception`` does not swallow."""

from __future__ import annotations

import signal
from enum import Enum

INTERRUPT_SIGNAL = signal.SIGRTMAX - 3  # real-time: no library that we know of uses it, and SIGUSR1 is often the user's


class Cancelled(BaseException):
    """Raised in user code whose call was cancelled: clean up and let it pass."""


class GangChanged(Cancelled):
    """Raised in user code of an elastic gang that has lost ranks: it is called again, in the ranks that are left.

    Clean up (a process group wants to be destroyed) and let it pass.
    """


class AttemptTimeout(BaseException):
    """Raised in user code that ran longer than its function's ``timeout``: clean up and let it pass."""


class Interrupt(Enum):
    """Why an attempt is to stop."""

    CANCEL = "cancel"
    GANG = "gang"
    CLOSED = "closed"  # the reader of a stream went away: its generator gets `GeneratorExit`
    TIMEOUT = "timeout"
    STOP = "stop"  # the worker is ended: nothing is reported, somebody else runs it again

    def exception(self) -> BaseException:
        """Return what the running code gets."""
        if self is Interrupt.TIMEOUT:
            return AttemptTimeout("this attempt ran longer than its function's timeout")
        if self is Interrupt.CLOSED:
            return GeneratorExit()
        if self is Interrupt.GANG:
            return GangChanged("this gang has lost ranks: its function is called again in those that are left")
        return Cancelled("this call was cancelled" if self is Interrupt.CANCEL else "this worker is being stopped")

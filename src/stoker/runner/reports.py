"""From what user code returned, yielded or raised to what the server is told."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NamedTuple, NoReturn

from stoker.errors import SerializationError, StokerError
from stoker.protocol.encoded import Encoded
from stoker.protocol.payload import encode_value
from stoker.protocol.remote_exceptions import encode_exception
from stoker.protocol.zygotes import ZygoteConfig
from stoker.runner.attempts import Attempt
from stoker.runner.endpoints import Answered
from stoker.runner.exchanges import ClientGone
from stoker.runner.interrupts import Interrupt
from stoker.runner.loading import PACKAGE_DIR
from stoker.runner.missing_modules import advise
from stoker.runner.outbox import Outbox, Payload
from stoker.runner.output import Output
from stoker.transport.segments import SegmentDir
from stoker.types import INPUT_LOST, ErrorInfo, Outcome


class Report(NamedTuple):
    """How an attempt ended. ``silent`` says nothing of it: the worker is stopped, and somebody else runs it again."""

    outcome: Outcome
    payload: Payload = b""
    error: ErrorInfo | None = None
    silent: bool = False


class Unsendable(Exception):
    """What user code returned or yielded cannot travel; wraps why, as user code may raise the same types itself."""

    def __init__(self, error: StokerError) -> None:
        super().__init__(str(error))
        self.error = error


class InputLost(Exception):
    """A call's input could not be brought to this node; wraps why. Nothing of the user's has run."""

    def __init__(self, error: StokerError) -> None:
        super().__init__(str(error))
        self.error = error


NOTHING = Report(Outcome.VALUE)


class Reports:
    """Makes reports, in the process that was leased the attempts and in no child of it."""

    def __init__(self, config: ZygoteConfig, outbox: Outbox, output: Output) -> None:
        self._config = config
        self._outbox = outbox
        self._output = output
        self.is_forked_child = False

    def read_input(self, attempt: Attempt) -> memoryview:
        """Return the payload of an attempt's arguments.

        Raises:
            StokerError: its segment is gone, or the bytes are malformed.
            InputLost: the server is on another machine, and its segment could not be had from there.
        """
        if attempt.segment is None:
            return attempt.body
        segments: SegmentDir | None = self._outbox.segments
        if segments is None:
            raise StokerError("This call's input lies in a segment, but the server names no directory of segments.")
        return self._mapped(segments, attempt.segment[0])

    def _mapped(self, segments: SegmentDir, name: str) -> memoryview:
        try:
            return segments.map(name)
        except StokerError as error:
            if self._outbox.sends_segments:
                raise InputLost(error) from error
            raise

    def encode_result(self, attempt: Attempt, value: object) -> Payload:
        """Encode what was returned; of a gang only rank 0's value is wanted.

        Raises:
            Unsendable: it cannot travel.
        """
        if attempt.encode is not None:
            return self._store(Encoded([attempt.encode(value)]))
        return self.encode(value if attempt.seat is None or attempt.seat.rank == 0 else None)

    def encode_item(self, attempt: Attempt, value: object) -> Payload:
        """Encode what was yielded; as `encode_result`."""
        return self.encode(value) if attempt.encode is None else self._store(Encoded([attempt.encode(value)]))

    def encode(self, value: object) -> Payload:
        """Encode what was returned or yielded; runs user code where that says how it is pickled.

        Raises:
            Unsendable: it cannot travel.
        """
        if self.is_forked_child:
            self._leave_child(None)
        try:
            return self._store(encode_value(value))
        except (SerializationError, StokerError) as error:
            raise Unsendable(error) from error

    def _store(self, encoded: Encoded) -> Payload:
        if self.is_forked_child:
            self._leave_child(None)
        try:
            return self._outbox.store(encoded)
        except StokerError as error:
            raise Unsendable(error) from error

    def of_value(self, attempt: Attempt, payload: Payload) -> Report:
        if attempt.raised:
            return self._of_interrupt(attempt, None)
        return Report(Outcome.VALUE, payload)

    def of_error(self, attempt: Attempt, error: BaseException) -> Report:
        """Report what ended an attempt: once it was interrupted, that is what is said, whatever it did about it."""
        if self.is_forked_child:
            self._leave_child(error)
        if attempt.raised:
            return self._of_interrupt(attempt, error)
        if isinstance(error, Answered):
            return Report(Outcome.VALUE, error.payload)
        if isinstance(error, InputLost):
            return Report(Outcome.CANCELLED, error=ErrorInfo(INPUT_LOST, str(error)))
        if isinstance(error, Unsendable):
            cause = error.error
            label = self._label(attempt)
            text = f"{label}: what it returned cannot travel: {cause}"
            return Report(Outcome.UNSENDABLE, error=ErrorInfo(type(cause).__name__, text, fields=cause.fields))
        advise(error)
        encoded, info = encode_exception(error, strip=PACKAGE_DIR)
        if attempt.is_request and not isinstance(error, ClientGone):
            # Who asks over HTTP is told its type and message alone: where it was raised is for who keeps the function.
            self._output.stderr.write_for(attempt, info.traceback)
        outcome = Outcome.MEMORY if isinstance(error, MemoryError) else Outcome.ERROR
        try:
            payload = self._outbox.store(encoded)
        except StokerError:
            payload = b""  # the text says enough, and there is no room for more
        return Report(outcome, payload, info)

    def _of_interrupt(self, attempt: Attempt, error: BaseException | None) -> Report:
        label = self._label(attempt)
        where = encode_exception(error, strip=PACKAGE_DIR)[1].traceback if error is not None else ""
        if attempt.interrupt is Interrupt.STOP:
            return Report(Outcome.CANCELLED, silent=True)
        if attempt.interrupt is Interrupt.TIMEOUT:
            seconds = self._config.timeout
            text = f"{label}: an attempt ran longer than its timeout of {seconds:g} s. Raise `timeout`, or do less."
            return Report(Outcome.TIMEOUT, error=ErrorInfo("CallTimeout", text, where))
        return Report(Outcome.CANCELLED, error=ErrorInfo("CallCancelled", f"{label}: the call was cancelled.", where))

    def _label(self, attempt: Attempt) -> str:
        label = self._config.label
        return f"{label}.{attempt.method}" if attempt.method else label

    def cancelled_unstarted(self) -> Report:
        text = f"{self._config.label}: the call was cancelled before it ran."
        return Report(Outcome.CANCELLED, error=ErrorInfo("CallCancelled", text))

    def _leave_child(self, error: BaseException | None) -> NoReturn:
        """End a child that user code forked and that came back out of the user's function: the call is its parent's."""
        status = 0
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
            status = 1
        sys.stdout.flush()
        os._exit(status & 0xFF)

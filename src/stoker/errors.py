"""Every error that Stoker raises, under one root.

Each says what happened, to which function and call, and what to do next. The fields carry the same facts for programs.

    StokerError
    ├── InvalidRequest              the request cannot mean anything: an option, a spec, an argument
    │   ├── InvalidOption           (also a TypeError) an unknown option, or one with a malformed value
    │   └── NotRunning              a function of an app that is neither running nor deployed
    ├── SerializationError          an object could not travel; ``path`` names where in the arguments it sits
    ├── NotFound                    no such app, function, call, image
    │   └── ResultExpired           the call is known, its result was kept for the stated time and is gone
    ├── ImageBuildError             an environment could not be built; ``log`` has the tool's own words
    │   └── InterpreterNotFound     no such Python on the node; lists those there are
    ├── Overloaded                  refused at once; ``retry_after`` seconds
    │   └── RateLimited             the token has been used as often as it may for now
    ├── Unschedulable               no node could ever hold what the function asks for
    ├── CallError                   an accepted call ended without a value of the user's own making
    │   ├── CallCancelled
    │   ├── CallTimeout             (also a TimeoutError)
    │   ├── DeadlineExceeded        (also a TimeoutError) the answer would have come too late
    │   ├── WorkerLost              the worker ended under the call, more often than ``lost_retries`` allows
    │   ├── OutOfMemory             (also a MemoryError)
    │   ├── StartupError            the worker could not load the function, or not within ``startup_timeout``
    │   └── RemoteError             a user's exception whose type is not installed here
    ├── ConnectionFailed            (also a ConnectionError) no server, or it went away for good
    │   └── VersionMismatch         client and server speak different protocols; names both
    ├── ProtocolError               bytes that are no frame: truncated, oversized, garbage
    ├── PermissionDenied            a token that is missing, wrong, or has not this right
    └── StoreError                  the store refused: full disk, corrupt file, newer version, another server's epoch
        ├── Fenced                  a newer server term has taken over this store
        └── StoreUnavailable        a store elsewhere does not answer just now; later it may
"""

from __future__ import annotations

from typing import Any


class StokerError(Exception):
    """The root of every error that Stoker raises."""

    @property
    def fields(self) -> dict[str, Any]:
        """Return what this error carries besides its text, as JSON-ready values."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_") and isinstance(v, (str, int, float, list))}


class InvalidRequest(StokerError):
    """The request cannot mean anything."""


class InvalidOption(InvalidRequest, TypeError):
    """An option is unknown, or its value malformed."""


class NotRunning(InvalidRequest):
    """A function was called whose app is neither running nor deployed."""


class SerializationError(StokerError):
    """An object could not travel.

    ``path`` says where it sits, in Python's own notation: ``args[0].model._lock``.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class NotFound(StokerError):
    """No such app, function, call or image."""


class ResultExpired(NotFound):
    """The call is known, but its result was kept for the stated time and is gone."""


class ImageBuildError(StokerError):
    """An environment could not be built; ``log`` holds the tool's own words."""

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class InterpreterNotFound(ImageBuildError):
    """The node has no such Python; the message lists those it has."""


class Overloaded(StokerError):
    """The call was refused at once because it could not be held or answered in time.

    ``retry_after`` is the expected wait in seconds, from the pool's measured service time.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(Overloaded):
    """The token may not be used so often; ``retry_after`` seconds from now it may again."""


class Unschedulable(StokerError):
    """No node could ever hold what the function asks for; the message names the resource and what would fit."""


class CallError(StokerError):
    """An accepted call ended without a value or exception of the user's own making."""

    def __init__(self, message: str, *, call_id: str = "", function: str = "") -> None:
        super().__init__(message)
        self.call_id = call_id
        self.function = function


class CallCancelled(CallError):
    """The call was cancelled."""


class CallTimeout(CallError, TimeoutError):
    """An attempt ran longer than its function's ``timeout`` and no retry was left."""


class DeadlineExceeded(CallError, TimeoutError):
    """The answer could not be given by the call's deadline."""


class WorkerLost(CallError):
    """The worker ended under the call, more often than ``lost_retries`` allows; the message says how it ended."""


class OutOfMemory(CallError, MemoryError):
    """The worker went over its function's ``memory``, or the machine ran out."""


class StartupError(CallError):
    """The worker could not load the function, or not within ``startup_timeout``."""


class RemoteError(CallError):
    """A user's exception whose type cannot be loaded here; carries its name, text and traceback.

    ``payload`` is the encoded exception itself: passed on to where its type is installed, it opens there.
    """

    def __init__(
        self,
        message: str,
        *,
        call_id: str = "",
        function: str = "",
        type_name: str = "",
        traceback: str = "",
        payload: bytes = b"",
    ) -> None:
        super().__init__(message, call_id=call_id, function=function)
        self.type_name = type_name
        self.traceback = traceback
        self.payload = payload


class ConnectionFailed(StokerError, ConnectionError):
    """No server could be reached, or it went away for good."""


class VersionMismatch(ConnectionFailed):
    """Client and server speak different protocols; the message names both versions."""


class ProtocolError(StokerError):
    """Bytes arrived that are no frame: truncated, oversized or garbage."""


class PermissionDenied(StokerError):
    """A token is missing, wrong, or has not the right that the request needs."""


class StoreError(StokerError):
    """The store refused: a full disk, a corrupt file, one of a newer version."""


class Fenced(StoreError):
    """A newer term of the server has taken over this store; this one may write nothing more."""


class StoreUnavailable(StoreError):
    """A store elsewhere did not answer, or only with its own failures, for as long as it was asked: later it may."""


def _by_name(root: type[StokerError]) -> dict[str, type[StokerError]]:
    found: dict[str, type[StokerError]] = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_by_name(child))
    return found


def from_wire(type_name: str, message: str, fields: dict[str, Any] | None = None) -> StokerError:
    """Rebuild one of the errors above from its name, text and fields; an unknown name gives a plain `StokerError`."""
    kind = _by_name(StokerError).get(type_name, StokerError)
    error = kind(message)
    for key, value in (fields or {}).items():
        setattr(error, key, value)
    return error

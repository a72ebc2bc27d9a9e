"""Calls that came over HTTP: a request becomes arguments, and what is returned the answer to it."""

from __future__ import annotations

from stoker.protocol.encoded import Buffer
from stoker.protocol.web_calls import WebRequest, decode_request
from stoker.runner.attempts import Attempt, Resolved
from stoker.runner.callables import Target
from stoker.runner.targets import Code
from stoker.web.answers import StreamEncoder, answer_of, error_answer
from stoker.web.interface import BadRequest, Interface
from stoker.web.scalars import Invalid
from stoker.web.things import Headers, Request


class Answered(Exception):
    """The call is over before the user's code began: this is its answer."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("answered")
        self.payload = payload


class Endpoints:
    """See the module. The interface of each function is worked out once."""

    def __init__(self, code: Code, *, label: str, methods: dict[str, list[str]]) -> None:
        """``methods``: HTTP's, by the name of a class's method; of a function by the empty name."""
        self._code = code
        self._label = label
        self._methods = methods
        self._interfaces: dict[str, Interface] = {}

    def prepare(self) -> None:
        """Work out the interfaces of all endpoints, so that what is wrong with one is known before its first request.

        Raises:
            InvalidOption: an annotation means nothing in this environment.
        """
        for name in self._methods:
            target, _, _ = self._code.target((name,) if name else (), {})
            if not target.is_exchange:
                self._interface(name, target)

    def resolve(self, attempt: Attempt, payload: Buffer) -> Resolved:
        """Return what a request is for, and the arguments that it gives; its answer is encoded as one.

        Raises:
            Answered: it cannot be read, or is not what the function takes.
        """
        came = decode_request(payload)
        target = self._target(came)
        if target.is_exchange:
            return target, (came,), {}
        try:
            return self._read(attempt, came, target)
        except BadRequest as error:
            raise Answered(error_answer(error.status, error.kind, str(error), call_id=attempt.id)) from None
        except Invalid as error:
            said = error_answer(422, "ValidationError", str(error), call_id=attempt.id, path=error.path)
            raise Answered(said) from None

    def resolve_ahead(self, attempt: Attempt, payload: Buffer) -> Resolved | None:
        """Return the same if the request is for a batch, and its arguments are made without any code of the user's.

        Raises:
            Invalid: it is not what the function takes.
            BadRequest: it cannot be read.
        """
        came = decode_request(payload)
        target = self._target(came)
        if target.batch is None or not self._interface(came.target, target).is_of_ours:
            return None
        return self._read(attempt, came, target)

    def _target(self, came: WebRequest) -> Target:
        target, _, _ = self._code.target((came.target,) if came.target else (), {})
        return target

    def _read(self, attempt: Attempt, came: WebRequest, target: Target) -> Resolved:
        attempt.encode = StreamEncoder(came.accept, call_id=attempt.id) if target.is_generator else answer_of
        headers = Headers(lambda: came.headers)
        request = Request(
            *(came.method, came.path, came.query, headers, came.body),
            client=came.client,
            content_type=came.content_type,
        )
        attempt.is_generator, attempt.method = target.is_generator, target.method
        return target, (), self._interface(came.target, target).read(request)

    def _interface(self, name: str, target: Target) -> Interface:
        found = self._interfaces.get(name)
        if found is None:
            label = f"{self._label}.{name}" if name else self._label
            methods, batched = self._methods.get(name, ["POST"]), target.batch is not None
            found = self._interfaces[name] = Interface(target.call, methods, label=label, is_batched=batched)
        return found

"""Who may connect: people by their user id on the Unix socket, workers and nodes by a token derived from a kept secret.

A worker's token is ``<worker id>.<HMAC of it>``, so that a restarted server knows its workers again without a list. A
node's is made alike, and good for its agent only.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from stoker.errors import PermissionDenied


def kept_secret(path: Path) -> bytes:
    """Return the secret in this file, made with mode 0600 when it is not there."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(32))
        partial.replace(path)
    return path.read_bytes()


class WorkerTokens:
    """Makes and checks the tokens of one server's workers."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def kept_in(cls, path: Path) -> WorkerTokens:
        """Use the secret in this file; see `kept_secret`."""
        return cls(kept_secret(path))

    def token(self, worker: str) -> str:
        return f"{worker}.{self._mac(worker)}"

    def worker_of(self, token: str) -> str:
        """Return the worker whose token this is.

        Raises:
            PermissionDenied: it is nobody's.
        """
        worker, _, mac = token.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(worker).encode()):
            raise PermissionDenied("The token is not one that this server has given to a worker.")
        return worker

    def _mac(self, worker: str) -> str:
        return hmac.new(self._secret, worker.encode(), hashlib.sha256).hexdigest()


class NodeTokens:
    """Makes and checks the tokens of the agents on other machines, from the same secret as those of workers."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def token(self, node: str) -> str:
        return f"{node}.{self._mac(node)}"

    def node_of(self, token: str) -> str:
        """Return the node whose token this is.

        Raises:
            PermissionDenied: it is nobody's.
        """
        node, _, mac = token.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(node).encode()):
            raise PermissionDenied("The token is not one that this server has given to a node.")
        return node

    def _mac(self, node: str) -> str:
        return hmac.new(self._secret, b"node:" + node.encode(), hashlib.sha256).hexdigest()

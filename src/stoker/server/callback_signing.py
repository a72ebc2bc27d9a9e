"""Signatures of callbacks, as Standard Webhooks has them (https://www.standardwebhooks.com): HMAC-SHA256 by a secret.

Each token has a secret of its own, made from one that this server keeps: nothing more is written down for it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

from stoker.server.tokens import kept_secret

PREFIX = "whsec_"


class CallbackSigner:
    """See the module."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def secret(self, holder: str) -> str:
        """Return the secret of a token, by its id, as its owner gives it to who verifies."""
        return PREFIX + base64.b64encode(self._key(holder)).decode()

    def headers(self, holder: str, *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """Return what a callback is signed by: its id, which each try has, when it is sent, and the signature."""
        signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
        digest = hmac.new(self._key(holder), signed, hashlib.sha256).digest()
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        }

    def _key(self, holder: str) -> bytes:
        return hmac.new(kept_secret(self._path), b"callback:" + holder.encode(), hashlib.sha256).digest()

"""Where a server works, and for how long it keeps what ended."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path

from stoker.blobs.location import shown_address
from stoker.core.callback_targets import Allowed
from stoker.store.postgres.address import shown
from stoker.transport.addresses import SCHEME, Address

END_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # they end a server in order


@dataclass(frozen=True)
class ServerConfig:
    """Where a server works. ``mode``: ``embedded`` · ``persistent``.

    ``blobs`` is an address, empty for the disk; ``store`` a database's URL, empty for a file.
    """

    mode: str
    run_dir: Path
    state_dir: Path
    segments: Path
    retention: float
    listen: Address | None = None  # where a door for programs with a token is
    http: Address | None = None  # where the gateway is
    traces: str = "off"  # off · otlp
    metrics_public: bool = False  # /metrics asks for no token
    http_is_chosen: bool = False  # somebody asked for that address: elsewhere is not good enough
    tls_cert: Path | None = None
    tls_key: Path | None = None
    callbacks: Allowed = field(default_factory=Allowed)  # where callbacks may go
    blobs: str = field(default="", repr=False)  # it may hold secrets
    store: str = field(default="", repr=False)  # it may hold a password
    standby: bool = False
    engine: str = "local"  # local · ray
    ray_address: str = "auto"
    node_lease: float = 30.0  # seconds of silence after which a node's workers count as lost

    @property
    def socket(self) -> Path:
        return self.run_dir / "server.sock"

    @property
    def store_shown(self) -> str:
        """Return where the store is, as it may be shown."""
        return shown(self.store) if self.store else str(self.state_dir / "store.db")

    @property
    def started_with(self) -> dict[str, str]:
        """Return what `stoker server start` has options for, as it may be shown: by their names, as settings are."""
        return {
            "listen": _place(self.listen),
            "http": _place(self.http) or "off",
            "metrics_public": "yes" if self.metrics_public else "no",
            "traces": self.traces,
            "tls_cert": str(self.tls_cert or ""),
            "tls_key": str(self.tls_key or ""),
            "blobs": shown_address(self.blobs) if self.blobs else "",
            "engine": self.engine,
            "ray_address": self.ray_address,
        }

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def spill(self) -> Path:
        return self.state_dir / "payloads"


def _place(address: Address | None) -> str:
    return str(address).removeprefix(SCHEME) if address is not None else ""

"""Where a server works, and for how long it keeps what ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServerConfig:
    """Where a server works. ``mode``: ``embedded`` · ``persistent``."""

    mode: str
    run_dir: Path
    state_dir: Path
    segments: Path
    retention: float

    @property
    def socket(self) -> Path:
        return self.run_dir / "server.sock"

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def spill(self) -> Path:
        return self.state_dir / "payloads"

"""What an agent is told when it starts, and the figures that it goes by."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from stoker import paths

EMBEDDED_GRACE_SECONDS = 10.0  # without a server, the program that owned everything is gone for good
PERSISTENT_GRACE_SECONDS = 600.0  # a server may be upgraded meanwhile; what runs goes on running
STOP_GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL where nobody said otherwise
BLOBS_VARIABLE = "STOKER_BLOBS"  # never an argument: addresses may hold secrets, and command lines are public
TOKEN_VARIABLE = "STOKER_AGENT_TOKEN"  # never arguments, as above
FINGERPRINT_VARIABLE = "STOKER_FINGERPRINT"
RUN_MARKER = "STOKER_RUN"  # in the environment of all that an agent starts: whose it is


@dataclass(frozen=True)
class AgentConfig:
    """Where an agent works, and for how long it waits for a server that went away.

    ``mode``: ``embedded`` · ``persistent``. ``grace`` 0 means the mode's own. ``limits``: ``auto``, or one of
    ``cgroup2`` · ``cgroup1`` · ``watch`` to have that one and no other.
    """

    run_dir: Path
    state_dir: Path
    server_socket: Path = Path()
    mode: str = "embedded"
    grace: float = 0.0
    node: str = "local"
    limits: str = "auto"
    labels: dict[str, str] = field(default_factory=dict)
    blobs: str = field(default="", repr=False)  # the address of the blob store; empty for this machine's disk
    server: str = ""  # stoker://HOST:PORT of a server on another machine; empty: server_socket
    fingerprint: str = ""  # of that server's certificate; empty: this machine's authorities
    token: str = field(default="", repr=False)
    until_stdin_closes: bool = False
    runner: str = ""  # a directory with a runner to use in place of Stoker's own; tests do

    @property
    def patience(self) -> float:
        """Seconds without a server after which the agent ends everything."""
        return self.grace or (EMBEDDED_GRACE_SECONDS if self.mode == "embedded" else PERSISTENT_GRACE_SECONDS)

    @property
    def is_remote(self) -> bool:
        """Tell whether the server is on another machine, so that nothing is shared with it but a connection."""
        return bool(self.server)

    @property
    def capacity(self) -> Path | None:
        """Where this node's capacity is accounted; None for the ledger that all programs of this user share."""
        return self.run_dir / "capacity.json" if self.is_remote else None

    @property
    def segments(self) -> Path:
        return segments_of(self.run_dir, self.state_dir)

    @property
    def payload_socket(self) -> Path:
        """Where this node's workers ask for payloads."""
        return self.run_dir / "payloads.sock"

    @property
    def marker(self) -> str:
        """The value of `RUN_MARKER` for this run."""
        return str(self.run_dir)

    @property
    def tag(self) -> str:
        """A short name of this run, for cgroups."""
        return _tag(self.run_dir)

    @property
    def blobs_note(self) -> Path:
        """Where an agent notes which blob store it reads, if that is not this machine's disk."""
        return self.state_dir / "agent.blobs"

    @property
    def blobs_tag(self) -> str:
        """What is noted: the address may hold secrets."""
        return hashlib.sha256(self.blobs.encode()).hexdigest() if self.blobs else ""

    @property
    def logs(self) -> Path:
        return self.state_dir / "logs"

    @property
    def scratch(self) -> Path:
        return paths.scratch(self.run_dir)

    @property
    def zygote_socket(self) -> Path:
        return self.run_dir / "agent.sock"

    @property
    def ledger(self) -> Path:
        return self.run_dir / "agent.ledger"


def segments_of(run_dir: Path, state_dir: Path) -> Path:
    """Return where big payloads of a node lie whose server is on another machine."""
    if not paths.SHM_ROOT.is_dir():
        return state_dir / "segments"
    return paths.SHM_ROOT / f"stoker-{os.getuid()}-node-{_tag(run_dir)}"


def _tag(run_dir: Path) -> str:
    return hashlib.sha256(str(run_dir).encode()).hexdigest()[:12]

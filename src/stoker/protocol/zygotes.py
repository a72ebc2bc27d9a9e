"""The link between an agent and a zygote: one JSON object a line, both ways, over an inherited socketpair.

    agent  ── ZygoteConfig, then any number of Fork ──►  zygote
    agent ◄── Ready | Failed, then Forked | NotForked for each Fork, and Exited for each Forked ──  zygote

The agent closes the link to end a zygote, which then exits at once; its workers live on and are adopted by pid. With
``ZygoteConfig.fresh`` the process is the worker itself: it says `Ready` or `Failed`, and closes the link.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from stoker.errors import ProtocolError
from stoker.protocol.structure import structured
from stoker.types import BatchSpec, CodeRef, ErrorInfo, MethodSpec, WebSpec

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
"""What a zygote has at 1 from its start, so that libraries leave one OS thread. Workers get their grant's cores."""


WORKER_MARKER = "STOKER_WORKER"  # in the environment of a worker and all that it starts
MARK_BLANK = "_" * 64  # where a zygote has room for the name of what it forks: longer than any worker's id


@dataclass(frozen=True)
class Fork:
    """Start a worker. The child joins the cgroups, sets the limits, and only then touches user code.

    ``log`` becomes its fds 1 and 2, opened for appending with mode 0600. ``cgroups`` are ``cgroup.procs`` files to
    write its pid to. ``rlimits`` maps names as in ``RLIMIT_<name>`` to a value for both soft and hard. ``env`` is set
    in the worker on top of the function's own. ``cpus`` decides how many threads its libraries get.
    """

    worker: str
    token: str
    log: str
    cpus: float = 1.0
    cgroups: list[str] = field(default_factory=list)
    rlimits: dict[str, int] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ZygoteConfig:
    """All that a zygote needs to know; sent as the first line.

    ``function`` is `FunctionSpec.key`. ``sys_path`` replaces the interpreter's own where it is not empty
    (`Image.local()`); ``bundle_dir`` goes before it, Stoker's own directory after it. ``by_value_file`` holds the blob
    of ``code.by_value``. ``env`` is the image's and the function's. ``thread_env`` has those of `THREAD_VARIABLES` that
    the agent itself was started with: workers get them back. ``grace`` is how long a worker waits for a server that
    went away. ``server`` is ``stoker://HOST:PORT`` of a server on another machine (``server_socket`` is empty then) and
    ``fingerprint`` its certificate's; big payloads of this node lie in ``segments`` then, and its agent brings those
    that it is asked for at ``payload_socket``. ``fresh`` makes this process the worker itself.
    ``methods`` and ``parameters`` are a class's, ``web`` and ``batch`` a function's, as in its spec.
    """

    app: str
    name: str
    function: str
    code: CodeRef
    server_socket: str
    run_id: str = ""
    kind: str = "function"
    is_async: bool = False
    concurrency: int = 1
    timeout: float = 3600.0
    recycle_after: int | None = None
    startup_timeout: float = 600.0
    sys_path: list[str] = field(default_factory=list)
    bundle_dir: str = ""
    by_value_file: str = ""
    env: dict[str, str] = field(default_factory=dict)
    thread_env: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    cwd: str = ""
    grace: float = 10.0
    server: str = ""
    fingerprint: str = ""
    segments: str = ""
    payload_socket: str = ""
    methods: dict[str, MethodSpec] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    web: WebSpec | None = None
    batch: BatchSpec | None = None
    fresh: Fork | None = None

    @property
    def label(self) -> str:
        """What users read: ``digits.accuracy``."""
        return f"{self.app}.{self.name}"


@dataclass(frozen=True)
class Ready:
    """The module is imported and the function found, ``seconds`` after the config came.

    Without ``forkable`` no worker can be forked here, for the ``reason``: end this process, and start each worker of
    this function fresh.
    """

    threads: int
    forkable: bool
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Failed:
    """The function could not be loaded; the process exits with status 1. ``error.traceback`` is the user's own."""

    error: ErrorInfo


@dataclass(frozen=True)
class Forked:
    """A worker runs as this pid, a child of the zygote."""

    worker: str
    pid: int


@dataclass(frozen=True)
class NotForked:
    """The kernel refused another process; it may not later."""

    worker: str
    error: ErrorInfo


@dataclass(frozen=True)
class Exited:
    """A worker is gone and was collected. ``status`` is as of `os.waitpid`; CPU and peak are of its whole life."""

    worker: str
    pid: int
    status: int
    cpu_seconds: float = 0.0
    peak_memory: int = 0


ZygoteMessage: TypeAlias = "ZygoteConfig | Fork | Ready | Failed | Forked | NotForked | Exited"
_BY_NAME: dict[str, Any] = {cls.__name__: cls for cls in (ZygoteConfig, Fork, Ready, Failed, Forked, NotForked, Exited)}


def encode_line(message: ZygoteMessage) -> bytes:
    """Return one line, its end included."""
    document = {"message": type(message).__name__, **vars(message)}
    return json.dumps(document, separators=(",", ":"), default=vars).encode() + b"\n"


def decode_line(line: bytes) -> ZygoteMessage:
    """Return the message of one line.

    Raises:
        ProtocolError: it is none.
    """
    try:
        document = json.loads(line)
        cls = _BY_NAME[document.pop("message")]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ProtocolError(f"A line on a zygote's link is no message: {line[:80]!r}: {error!r}") from None
    message: ZygoteMessage = structured(cls, document)
    return message

"""The vocabulary, as small frozen dataclasses that travel as JSON.

Only the standard library is imported here: these are the same classes in a client, a worker and the server. Durations
are seconds, sizes are bytes, CPUs are cores. A change makes a new object (``dataclasses.replace``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class CallState(str, Enum):
    """Where a call is. The last four are settled: no transition leaves them."""

    ACCEPTING = "accepting"  # detached only: not yet committed
    QUEUED = "queued"
    LEASED = "running"  # handed to a worker, which may have others to run before it
    BACKOFF = "backoff"  # waits for its next attempt
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"

    @property
    def settled(self) -> bool:
        return self in _SETTLED


_SETTLED = frozenset({CallState.SUCCEEDED, CallState.FAILED, CallState.CANCELLED, CallState.REFUSED})


class Growth(str, Enum):
    """How an engine may come to have more nodes than it has now."""

    NEVER = "never"  # what no node can hold now, none ever will
    BY_HAND = "by hand"  # somebody may add one, for whatever reason
    BY_ITSELF = "by itself"  # they are added for what waits, or are on their way


class Outcome(int, Enum):
    """How one attempt ended, as its worker reports it."""

    VALUE = 0  # the payload is the value (for a generator: empty, after its last item)
    ERROR = 1  # the payload is the user's exception
    CANCELLED = 2  # the attempt took its cancellation
    TIMEOUT = 3  # over `timeout`, ended in the worker
    UNSENDABLE = 4  # the value could not be encoded; `ErrorInfo` says which object
    MEMORY = 5  # a MemoryError, or the limit was met, inside the worker


class InputEnd(int, Enum):
    """Why nothing more comes of what a call's client sends while the call runs."""

    OPEN = 0  # more may come
    COMPLETE = 1
    GONE = 2  # its client has hung up
    LOST = 3  # an earlier attempt has had some of it, which is not kept


INPUT_LOST = "InputLost"
"""``ErrorInfo.type_name`` beside `Outcome.CANCELLED`: the input did not reach the worker, and nothing has run."""


@dataclass(frozen=True)
class ErrorInfo:
    """What a person needs to know of an error, without opening its pickle.

    ``type_name`` is qualified (``sklearn.exceptions.NotFittedError``); ``mro`` lists the qualified names of its bases,
    itself first, for ``Retries(on=...)``; ``fields`` holds a Stoker error's own fields.
    """

    type_name: str
    message: str
    traceback: str = ""
    mro: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The type's name as Python writes it below a traceback: built-in ones stand alone."""
        return self.type_name.removeprefix("builtins.")

    @property
    def said(self) -> str:
        """The last line of its traceback."""
        return f"{self.name}: {self.message}"


@dataclass(frozen=True)
class PayloadRef:
    """Where one call's bytes are: ``data`` in the frame, or a shared-memory segment of ``size`` bytes by name."""

    data: bytes = b""
    segment: str = ""
    size: int = 0


@dataclass(frozen=True)
class RetrySpec:
    """When a failed attempt is followed by another: the n-th retry waits ``initial_delay * backoff ** (n - 1)``."""

    max_retries: int = 0
    initial_delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 60.0
    on: list[str] = field(default_factory=list)  # qualified type names; empty: every exception


@dataclass(frozen=True)
class GangSpec:
    """How many workers run each call together; ``least`` and ``most`` differ where the gang is elastic."""

    least: int
    most: int

    @property
    def is_elastic(self) -> bool:
        return self.least < self.most


@dataclass(frozen=True)
class GangSeat:
    """One worker's place in a gang's attempt. ``addresses`` (``host:port``) and ``nodes`` are by rank.

    Nobody listens at the addresses: each is a port that was free at its rank's worker just before the attempt began,
    for that rank's own use.
    """

    gang: str
    rank: int
    addresses: list[str]
    nodes: list[str]


@dataclass(frozen=True)
class BatchSpec:
    """A function that takes many inputs at once: at most ``max_size``, gathered for ``max_wait`` seconds at most."""

    max_size: int
    max_wait: float


@dataclass(frozen=True)
class WebSpec:
    """How a function is reached over HTTP.

    ``methods`` are HTTP methods. ``openapi`` is, as JSON, what its page says of it: an operation and the schemas that
    it names, each under ``components``; empty where nothing could be said.

    ``resume``: for so many seconds a stream whose client has gone waits for it to come again; 0 for not at all.

    ``app`` is ``asgi`` · ``wsgi`` · ``server`` where the function does not answer requests but makes what does, at all
    paths below its own. A ``server`` listens at ``port`` of its worker, 0 for one that it is told.
    """

    methods: list[str] = field(default_factory=lambda: ["POST"])
    requires_token: bool = True
    cors: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    openapi: str = ""
    app: str = ""
    port: int = 0
    resume: float = 0.0


@dataclass(frozen=True)
class HealthSpec:
    """A check of each worker: so often, in seconds, within ``timeout`` seconds; bad after so many failures in a row."""

    every: float
    timeout: float
    failures: int


@dataclass(frozen=True)
class MethodSpec:
    """One method of a class that calls may run. ``kind`` and ``is_async`` as in `FunctionSpec`."""

    kind: str = "function"
    is_async: bool = False
    batch: BatchSpec | None = None
    web: WebSpec | None = None


@dataclass(frozen=True)
class ParameterSpec:
    """What a class is configured by. ``type``: ``str`` · ``int`` · ``float`` · ``bool``."""

    type: str
    required: bool = False
    default: Any = None


@dataclass(frozen=True)
class OptionsSpec:
    """A function's options, resolved: what `stoker.client.options.FunctionOptions` becomes on the wire."""

    cpu: float = 1.0
    memory: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    timeout: float = 3600.0
    startup_timeout: float = 600.0
    retries: RetrySpec = field(default_factory=RetrySpec)
    lost_retries: int = 2
    min_workers: int = 0
    max_workers: int | None = None
    buffer_workers: int = 0
    idle_timeout: float = 60.0
    concurrency: int = 1
    max_pending: int = 100_000
    deadline: float | None = None
    recycle_after: int | None = None
    recycle_memory: int | None = None
    priority: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    gang: GangSpec | None = None
    batch: BatchSpec | None = None  # of a class: the largest of its methods'


@dataclass(frozen=True)
class LocalPython:
    """The caller's own environment, for `Image.local()`: checked by ``fingerprint`` at each start of a worker.

    ``frozen`` is the digest of its description, a `FrozenPython`, from which a node that does not have it builds it;
    empty where no node could need it.
    """

    executable: str
    sys_path: list[str]
    fingerprint: str
    frozen: str = ""


@dataclass(frozen=True)
class FrozenDistribution:
    """One installed distribution, and where a node gets it from.

    That is ``wheel``, the digest of a blob with its files as they were (``compiled`` if some are machine code); else
    ``url``, an archive or a commit; else an index, in this version. ``problem`` says why it cannot travel.
    """

    name: str
    version: str
    url: str = ""
    wheel: str = ""
    compiled: bool = False
    problem: str = ""


@dataclass(frozen=True)
class FrozenPython:
    """What is installed in an environment. ``platform`` is where its compiled files run: ``linux-x86_64-glibc``."""

    python: str
    platform: str
    distributions: list[FrozenDistribution] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """Return the blob; equal descriptions give equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> FrozenPython:
        """Read a blob back.

        Raises:
            ValueError: it is no such description.
        """
        try:
            read = json.loads(data)
            return cls(**{**read, "distributions": [FrozenDistribution(**item) for item in read["distributions"]]})
        except (TypeError, KeyError) as error:
            raise ValueError(f"no description of an environment: {error}") from error


@dataclass(frozen=True)
class ImageStep:
    """One step of a recipe.

    ``kind`` and ``args``: ``pip_install`` {requirements, index_url, extra_index_url, find_links} · ``requirements``
    {text, name} · ``uv_sync`` {pyproject, lock, name} · ``env`` {vars} · ``run_commands`` {commands} · ``run_function``
    {module, qualname, bundle, by_value, name} · ``add_local`` {blob, target, name} · ``add_python`` {blob, name} ·
    ``apt_install`` {packages}. The node's own: ``frozen`` {digest}, in place of a `LocalPython` that it does not have.
    """

    kind: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageSpec:
    """A recipe: either the caller's own environment, or a Python version and what is installed on it.

    ``python`` is ``"3.12"``, a full version, or a path; with ``local`` set, it is the version of the caller's Python.
    """

    python: str
    local: LocalPython | None = None
    steps: list[ImageStep] = field(default_factory=list)

    @property
    def digest(self) -> str:
        return digest_of(asdict(self))


@dataclass(frozen=True)
class CodeRef:
    """Where a function's code is: a module of a bundle, or a cloudpickle.

    ``bundle`` and ``by_value`` are blob digests or empty. ``main_alias`` is set when the client runs this module as
    ``__main__``: the worker then answers to both names.
    """

    module: str = ""
    qualname: str = ""
    bundle: str = ""
    by_value: str = ""
    main_alias: bool = False
    python: str = ""  # "3.11": what `by_value` needs; empty when it is imported


@dataclass(frozen=True)
class FunctionSpec:
    """A versioned definition: code + image + resources + policies.

    ``kind``: ``function`` · ``generator`` · ``class``; ``is_async`` tells coroutines and async generators. ``run_id``
    is empty for a deployed app; an ephemeral app is (name, run_id). ``version`` is given by the server at deploy.

    A class has ``methods`` by name, one of which a call's first argument names, and ``parameters``: plain values, by
    which each instance is a pool of its own. ``declared`` says which there are. Where one of them has no value this is
    a template: others are made of it, and nothing runs in it.
    """

    app: str
    name: str
    code: CodeRef
    image: ImageSpec
    options: OptionsSpec = field(default_factory=OptionsSpec)
    kind: str = "function"
    is_async: bool = False
    run_id: str = ""
    version: int = 0
    cwd: str = ""  # the client's working directory; the worker's, where it exists and no `workdir` is set
    methods: dict[str, MethodSpec] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    web: WebSpec | None = None
    declared: dict[str, ParameterSpec] = field(default_factory=dict)
    health: HealthSpec | None = None  # of a class that checks its workers

    @property
    def is_template(self) -> bool:
        return any(one.required and name not in self.parameters for name, one in self.declared.items())

    @property
    def key(self) -> str:
        """The pool's key: equal specs share a pool, any change makes another."""
        return digest_of(asdict(self))[:24]

    @property
    def label(self) -> str:
        """What users read: ``digits.accuracy``."""
        return f"{self.app}.{self.name}"


def digest_of(value: Any) -> str:
    """Return the SHA-256, as hex, of a JSON-ready value in its canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()

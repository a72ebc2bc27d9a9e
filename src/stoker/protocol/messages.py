"""Every message of every link, as flat dataclasses in columns.

What is said of many calls at once stands in parallel lists (``ids[i]``, ``sizes[i]``, …), so that a batch of a thousand
is one JSON document that the standard library reads and writes at C speed, and msgspec faster still.

Payloads: ``sizes[i]`` bytes of the body belong to ``ids[i]``; where a payload lies in a shared-memory segment its size
here is 0 and ``segments[str(i)]`` is ``[name, size]``. Over TCP nothing lies in a segment: a body may come before its
message, in `Part` frames.

    client ── Hello, Submit, Watch, Cancel, StreamCredit, Ack, PutBlob, Request, AskChannel ──► server
    client ◄── Welcome | Rejected, Accepted, RefusedCalls, Results, Items, Window, Notice, Reply, Channel ── server
    client ── ChannelHello, ChannelCall ──► worker, its channel
    client ◄── ChannelAnswer ── worker, its channel
    server ── Lease, StreamCredit, Ack, Inputs ──► worker, its lease socket
    server ◄── Hello, Held, Results, Items, AskInputs, ChannelClosed ── worker, its lease socket
    server ── CancelAttempts, Revoke, Drain, OpenChannel, CloseChannel, GatherRank ──► worker, its control socket
    server ◄── Hello, Revoked, ChannelOpened, ChannelUsed, RankGathered, Checked, StartFailed
           ── worker, its control socket
    server ── StartWorker, StopWorker, BuildImage, FlushLogs, Request ──► agent
    server ◄── Hello, NodeState, WorkerStarted, StartFailed, WorkerExited, Phase, LogLines, Usage,
           LogsFlushed, Reply ── agent
    server ── Fetched | FetchFailed, AgreedLock, Drop ──► agent, its data connections: see `data_messages`
    server ◄── Hello, Fetch, AgreeLock, WatchDrops ── agent, its data connections
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from stoker.protocol.data_messages import AgreedLock, AgreeLock, Drop, Fetch, Fetched, FetchFailed, WatchDrops
from stoker.protocol.input_messages import AskInputs, Inputs
from stoker.protocol.message_class import message
from stoker.types import ErrorInfo, FunctionSpec, GangSeat, ImageSpec

Segments = dict[str, list[str | int]]


@message
class Hello:
    """The first frame of every connection. ``role``: client · worker · control · agent · node.

    ``name`` is the client's session id, the worker's id (both its sockets) or the node's id. ``term`` is the epoch that
    an agent obeyed last, or that a client was last connected to; 0 for none. A client that was connected before says
    which `Welcome.connection` that was, and the last `Results.seq` that it dealt with there: it need not come again.
    """

    role: str
    name: str
    version: str
    token: str = ""
    pid: int = 0
    python: str = ""
    term: int = 0
    connection: int = 0
    seen: int = 0


@message
class Welcome:
    """The server's answer. ``segments`` and ``spill`` are directories for payload segments, empty over TCP.

    ``server`` names this server's state; it stays the same over restarts, while ``term`` rises. ``connection``
    counts those of this session. ``known`` are attached calls with big inputs of a client that came back over TCP: it
    need not send them again. ``freeze``: workers may be started where the client's own environment is not.
    """

    version: str
    server: str
    term: int
    segments: str = ""
    spill: str = ""
    grace: float = 60.0  # seconds for which the server keeps what a client that went away is owed
    connection: int = 0
    known: list[str] = field(default_factory=list)
    freeze: bool = False


@message
class Rejected:
    """The server's other answer; it closes the connection after it. ``type_name`` is one of `stoker.errors`."""

    type_name: str
    message: str
    fields: dict[str, Any] = field(default_factory=dict)


@message
class Part:
    """The body is a piece of the next message's body on this connection, which has ``size`` bytes in all.

    Where the two ends share no memory, what is too big for a frame comes in such pieces, in order and without another
    message between them; the frame of the message itself has no body then.
    """

    size: int


@message
class Submit:
    """Calls of one function. ``kind``: ``call`` (single) · ``map`` (within a window) · ``stream``.

    ``deadline`` is in seconds from now, None for the function's own. ``acked`` is the sequence number of the last
    `Results` frame that the client has dealt with. ``parent`` is the call that makes these. ``channel`` is the one that
    these calls were sent down before, without an answer in time. ``method`` is that of a class, which their arguments
    name first; ``trace`` the W3C ``traceparent`` that they belong to.
    """

    function: str
    ids: list[str]
    sizes: list[int]
    segments: Segments = field(default_factory=dict)
    kind: str = "call"
    detached: bool = False
    deadline: float | None = None
    priority: int = 0
    parent: str = ""
    acked: int = 0
    channel: str = ""
    method: str = ""
    trace: str = ""


@message
class Accepted:
    """Detached calls that are committed."""

    ids: list[str]


@message
class RefusedCalls:
    """Calls that were not accepted, all for one reason."""

    ids: list[str]
    error: ErrorInfo


@message
class Results:
    """Settled calls (server to client) or finished attempts (worker to server).

    ``outcomes`` are `stoker.types.Outcome`; ``errors[str(i)]`` belongs to ``ids[i]``. An error made by Stoker itself
    (``WorkerLost``, …) has a name without a dot and no payload. ``printed`` are the places of calls that have printed
    something: who waits for one shows that first. ``seconds`` is how long each ran, by the
    worker's clock. ``batches[i]`` is how many ran in one batch with ``ids[i]``, said of the first of each; empty where
    nothing is batched. The receiver answers with `Ack` of ``seq``; until then the sender keeps the frame and sends it
    again after a reconnect.
    """

    seq: int
    ids: list[str]
    outcomes: list[int]
    sizes: list[int]
    attempts: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    segments: Segments = field(default_factory=dict)
    errors: dict[str, ErrorInfo] = field(default_factory=dict)
    printed: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)


@message
class Ack:
    """Everything up to this `Results.seq` is safe with the receiver and may be forgotten by the sender."""

    seq: int


@message
class Items:
    """What a generator yielded: items ``first``, ``first + 1``, … of one call's attempt."""

    id: str
    attempt: int
    first: int
    sizes: list[int]
    segments: Segments = field(default_factory=dict)


@message
class StreamCredit:
    """The reader of a stream has room up to item number ``upto`` (exclusive)."""

    id: str
    upto: int


@message
class Watch:
    """Send the results of these detached calls to me, as they come or at once."""

    ids: list[str]


@message
class Cancel:
    """Cancel calls. ``force`` skips the grace. ``reason``: ``user`` · ``closed`` (a stream's reader) · ``sibling``."""

    ids: list[str]
    reason: str = "user"
    force: bool = False


@message
class Window:
    """How many calls of one function a client's maps may have outstanding or unread."""

    function: str
    size: int


@message
class Notice:
    """News for people: ``kind`` is ``log`` · ``phase`` · ``warning``; see `stoker.server.notices`."""

    kind: str
    data: dict[str, Any]


@message
class PutBlob:
    """The body is the blob of this SHA-256. Answered by `Reply` with the same ``id``."""

    id: int
    digest: str


@message
class PutSegment:
    """The body is a payload segment, which a worker on another machine names in what it sends next.

    ``seq`` is that of the `Results` which will name it, 0 for items of a stream.
    """

    name: str
    sizes: list[int]
    seq: int = 0


@message
class Request:
    """Everything that is not on the hot path: a verb and its parameters. Answered by `Reply`."""

    id: int
    verb: str
    params: dict[str, Any] = field(default_factory=dict)


@message
class Reply:
    """The answer to a `Request`: a result, or one of `stoker.errors`. The body, if any, belongs to the verb."""

    id: int
    result: Any = None
    error: ErrorInfo | None = None


@message
class Lease:
    """Attempts for a worker to run, in order. ``attempts`` start at 1. ``kinds`` as in `Submit`.

    ``clients[i]`` is who asked. ``credits[i]`` is the first `StreamCredit.upto` of a stream, 0 for others. The function
    is the worker's own. ``gang`` is the worker's place among those that run this one attempt together. ``traces`` are
    the W3C ``traceparent`` of each; no column where none has any. ``methods`` are those of a class of which some run
    in batches: no column for any other.
    """

    ids: list[str]
    attempts: list[int]
    sizes: list[int]
    segments: Segments = field(default_factory=dict)
    credits: list[int] = field(default_factory=list)
    acked: int = 0
    gang: GangSeat | None = None
    traces: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)


@message
class Held:
    """A worker's first words after `Hello` on its lease socket: the attempts it has leased and not yet reported.

    What it had reported and nobody acknowledged comes before: `Results` and `Items`. ``fresh`` means that it has just
    started and can run now. ``gang`` is the seat that it was leased last. ``ages`` are the seconds for which each has
    run, none for those that wait.
    """

    ids: list[str]
    attempts: list[int]
    fresh: bool = False
    gang: GangSeat | None = None
    ages: list[float] = field(default_factory=list)


@message
class GatherRank:
    """Look for a free port for this worker's rank of a call's attempt, and keep it until the attempt's lease comes.

    Answered by `RankGathered`.
    """

    id: str
    attempt: int


@message
class RankGathered:
    """The port that was free, and what is ``installed`` there (``name==version`` each): the ranks must agree on it."""

    id: str
    attempt: int
    port: int
    installed: list[str] = field(default_factory=list)


@message
class CancelAttempts:
    """Cancel attempts, running or leased. After ``grace`` seconds the worker may be killed.

    ``reason`` as in `Cancel`, or ``gang``: the attempt begins anew with the ranks that are left.
    """

    ids: list[str]
    attempts: list[int]
    grace: float
    reason: str = "user"


@message
class Revoke:
    """Give back those of these attempts that have not been started."""

    ids: list[str]
    attempts: list[int]


@message
class Revoked:
    """The attempts given back: they will never run here."""

    ids: list[str]
    attempts: list[int]


@message
class Drain:
    """Take no more leases; finish what runs, run exit hooks, exit."""

    reason: str = ""


@message
class Checked:
    """A worker has checked itself, as its class says how; ``error`` is what is wrong, empty if nothing is."""

    error: str


@message
class AskChannel:
    """The client makes one call of this function after another: answered by `Channel`."""

    function: str


@message
class Channel:
    """Where a worker of the function takes calls straight from this client: a socket in the abstract namespace.

    ``channel`` is empty where no worker can be spared now.
    """

    function: str
    channel: str = ""
    address: str = ""
    key: str = ""


@message
class OpenChannel:
    """Take calls from a client directly. Answered by `ChannelOpened`, or by `ChannelClosed`.

    ``client`` is its session: the calls that it may make have ids that begin with it and a dot.
    """

    channel: str
    client: str


@message
class ChannelOpened:
    """Somebody who says ``key`` first may connect to ``address``, once."""

    channel: str
    address: str
    key: str


@message
class CloseChannel:
    """Take no more calls from the client. Answered by `ChannelClosed`."""

    channel: str


@message
class ChannelClosed:
    """The worker's channel is closed; no order is needed for that.

    ``ids`` are the attempts that came by it and still run: their results go to the server. ``answered`` is the last
    call that was answered by it. Whatever else was sent down it was not read, and never runs.
    """

    channel: str
    ids: list[str]
    attempts: list[int]
    answered: str = ""


@message
class ChannelUsed:
    """Calls that were answered by a channel, for the record. ``finished`` are Unix times; the rest as in `Results`.

    ``methods`` are those of a class, of each; no column where it is of a function.
    """

    channel: str
    ids: list[str]
    outcomes: list[int]
    seconds: list[float]
    finished: list[float]
    errors: dict[str, ErrorInfo] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)


@message
class ChannelHello:
    """The first frame on a channel."""

    key: str


@message
class ChannelCall:
    """One call, its input in the body; ``trace`` as in `Submit`. The client sends the next when it has the answer."""

    id: str
    trace: str = ""


@message
class ChannelAnswer:
    """How the call ended, as in `Results`; ``elsewhere``: the server will tell, and this channel is closed.

    ``printed``: the call, or one that it has made, has printed something.
    """

    outcome: int = 0
    error: ErrorInfo | None = None
    printed: bool = False
    elsewhere: bool = False


@message
class NodeState:
    """An agent's first words after `Hello`, and again when they change: the node, and the workers that run on it.

    ``cpus`` and ``memory`` are what the node has; ``cpus_free`` and ``memory_free`` are what other Stoker programs
    on it leave. ``workers``, ``functions``, ``pids``, ``cpus_held``, ``memory_held``, ``grants`` and ``began`` (Unix
    times of their starts) are parallel.
    ``starting`` are the starts on their way: an order that is in neither list was lost, or its answer was.
    """

    cpus: float
    memory: int
    cpus_free: float
    memory_free: int
    labels: dict[str, str] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    cpus_held: list[float] = field(default_factory=list)
    memory_held: list[int] = field(default_factory=list)
    starting: list[str] = field(default_factory=list)
    grants: list[str] = field(default_factory=list)
    began: list[float] = field(default_factory=list)


@message
class Beat:
    """An agent on another machine lives; the server sends the same back, with the node's lease in seconds.

    An agent that has not had one back for its lease must take it that its workers count as lost.
    """

    number: int
    lease: float = 0.0


@message
class StartWorker:
    """Start a worker on its grant: ``cpus`` cores and ``memory`` bytes (0: unlimited). ``token`` is the worker's own.

    ``devices`` are the GPUs that it sees. An order of a lower ``term`` than the agent has seen is refused.
    """

    term: int
    worker: str
    function: FunctionSpec
    token: str
    cpus: float
    memory: int = 0
    grant: str = ""
    devices: list[str] = field(default_factory=list)


@message
class StopWorker:
    """End a worker: terminate, and after ``grace`` seconds kill it and all it started."""

    term: int
    worker: str
    grace: float
    reason: str = ""


@message
class WorkerStarted:
    """A worker process runs. ``how``: ``fork`` · ``fresh``. ``seconds``: how long each phase of starting it took."""

    worker: str
    pid: int
    how: str
    seconds: dict[str, float] = field(default_factory=dict)


@message
class StartFailed:
    """A worker could not be started. With ``retry`` it may work later (the capacity is held by another program).

    A worker says so itself where an enter hook has failed.
    """

    worker: str
    error: ErrorInfo
    retry: bool = False


@message
class WorkerExited:
    """A worker process is gone, with everything it started.

    ``cause``: ``exit`` · ``signal`` · ``memory`` · ``stopped`` · ``unknown`` (an earlier agent was its parent).
    ``detail`` is a sentence for people ("exit status 3", "killed by signal 11 (segmentation fault)"). ``calls`` and
    ``texts`` are the last lines that it wrote, where it ended by itself, as in `LogLines`.
    """

    worker: str
    cause: str
    detail: str
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    calls: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@message
class Phase:
    """What a starting worker is waiting for: ``phase`` is ``building`` · ``starting``; ``detail`` for people."""

    worker: str
    phase: str
    detail: str = ""


@message
class LogLines:
    """Output of one worker: ``calls[i]`` is the call that printed ``texts[i]``, empty for native output."""

    worker: str
    function: str
    calls: list[str]
    streams: list[str]  # stdout · stderr · stoker
    times: list[float]
    texts: list[str]


@message
class FlushLogs:
    """Send all output written so far, then `LogsFlushed`."""

    id: int


@message
class LogsFlushed:
    id: int


@message
class Usage:
    """What workers use now: seconds of CPU so far, bytes resident."""

    workers: list[str]
    cpu_seconds: list[float]
    memory: list[int]


@message
class BuildImage:
    """Have an environment built on this node. Answered by `Reply`; progress comes as `Phase` with this ``worker``."""

    term: int
    id: int
    image: ImageSpec
    worker: str = ""


KINDS: dict[int, type[Any]] = {
    1: Hello,
    2: Welcome,
    3: Rejected,
    4: Part,
    10: Submit,
    11: Accepted,
    12: RefusedCalls,
    13: Results,
    14: Ack,
    15: Items,
    16: StreamCredit,
    17: Watch,
    18: Cancel,
    19: Window,
    20: Notice,
    21: PutBlob,
    22: Request,
    23: Reply,
    24: AskChannel,
    25: Channel,
    26: PutSegment,
    30: Lease,
    31: Held,
    32: CancelAttempts,
    33: Revoke,
    34: Revoked,
    35: Drain,
    36: OpenChannel,
    37: ChannelOpened,
    38: CloseChannel,
    39: ChannelClosed,
    40: NodeState,
    41: StartWorker,
    42: StopWorker,
    43: WorkerStarted,
    44: StartFailed,
    45: WorkerExited,
    46: Phase,
    47: LogLines,
    48: FlushLogs,
    49: LogsFlushed,
    50: Usage,
    51: BuildImage,
    52: Beat,
    60: ChannelUsed,
    61: ChannelHello,
    62: ChannelCall,
    63: ChannelAnswer,
    64: GatherRank,
    65: RankGathered,
    66: Fetch,
    67: Fetched,
    68: FetchFailed,
    69: WatchDrops,
    70: Drop,
    71: AgreeLock,
    72: AgreedLock,
    73: AskInputs,
    74: Inputs,
    80: Checked,
}
"""The kind on the wire of each message. A number is never used again for another."""

KIND_OF: dict[type[Any], int] = {cls: kind for kind, cls in KINDS.items()}

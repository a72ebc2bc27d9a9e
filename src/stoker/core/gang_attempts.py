"""One attempt of a call at a gang: it begins on all ranks, and ends on all of them.

    GATHERING   each rank's worker looks for a free port; when all have one, the leases go out with all addresses
    RUNNING     it ends well when every rank has; the value is rank 0's
    ENDING      a rank has failed, or the call is over (cancelled, expired): the others are told to let go, and killed
                if they do not. The call is settled, or tried again, without waiting for them

Whose failure it was: an exception that one rank raises is often the echo of another one's death (its peers find the
connection broken before its agent can say so). So a reported failure counts only when each other rank has shown that
it was alive, by a report of its own, or after a moment.

Elastic gangs go on with the ranks that are left when a worker is lost: once these have let go, the next attempt begins
on them. That is counted against no call: it cannot happen more often than ranks can be lost.
"""

from __future__ import annotations

from dataclasses import replace

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core import settling
from stoker.core.calls import Call, Result, stoker_error
from stoker.core.draining import drain_one
from stoker.core.gang_environments import disagreement
from stoker.core.pools import Gang, GangPhase, Worker, WorkerState
from stoker.core.state import State
from stoker.types import CallState, ErrorInfo, GangSeat, Outcome

BLAME_SECONDS = 1.0  # for an agent to tell of the death that another rank's exception may be the echo of
GATHER_SECONDS = 30.0  # a worker that has not answered by then was stopped: the thread that answers runs no user code


def begin(st: State, gang: Gang, call: Call) -> None:
    """Give a gang a call; its ranks run it when all have said where they can be met."""
    call.attempt += 1
    call.state = CallState.LEASED
    call.worker = gang.workers[0]
    call.leased_at = st.now
    gang.phase, gang.call, gang.attempt = GangPhase.GATHERING, call, call.attempt
    gang.ranks = {worker.id: rank for rank, worker in enumerate(gang.workers)}
    gang.size = len(gang.workers)
    gang.ports, gang.addresses, gang.installed = {}, [], {}
    gang.value, gang.blame, gang.changing = None, None, False
    gang.patience = st.now + GATHER_SECONDS
    if call.detached and not gang.pool.options.lost_retries:
        gang.token = st.token()  # a call that must not run twice is first written down as running
        st.gangs_withheld[gang.token] = gang
        st.writes.append(c.PersistProgress([call], gang.token))
    for worker in gang.workers:
        st.emit(c.GatherRank(worker.id, call.id, call.attempt))


def gathered(st: State, event: e.RankGathered) -> None:
    """A rank has a port; when it was the last one, the attempt is leased to all."""
    worker = st.workers.get(event.worker)
    gang = worker.gang if worker is not None else None
    if gang is None or gang.phase is not GangPhase.GATHERING or gang.call is None:
        return
    if (gang.call.id, gang.attempt) == (event.id, event.attempt):
        gang.ports[event.worker] = event.port
        gang.installed[event.worker] = event.installed
        _lease_if_gathered(st, gang)


def written(st: State, token: int) -> None:
    """A call is written down as running: its ranks may have it."""
    gang = st.gangs_withheld.pop(token)
    if gang.token == token:
        gang.token = 0
        _lease_if_gathered(st, gang)


def refused(st: State, token: int) -> None:
    """Try again later what could not be written down: it was not begun."""
    gang = st.gangs_withheld.pop(token)
    if gang.token == token and gang.call is not None and is_open(gang):
        settling.back_off(st, gang.call, st.now + st.limits.persist_retry)
        _let_go(st, gang)


def _lease_if_gathered(st: State, gang: Gang) -> None:
    call = gang.call
    if gang.phase is not GangPhase.GATHERING or gang.token or call is None or not is_open(gang):
        return
    if any(worker.id not in gang.ports or worker.state is WorkerState.AWAY for worker in gang.workers):
        return
    nodes = [worker.node for worker in gang.workers]
    if differ := disagreement(nodes, [gang.installed[worker.id] for worker in gang.workers]):
        _refuse(st, gang, call, differ)
        return
    gang.phase = GangPhase.RUNNING
    call.leased_at = st.now
    hosts = [st.nodes[worker.node].address for worker in gang.workers]
    addresses = [f"{host}:{gang.ports[worker.id]}" for host, worker in zip(hosts, gang.workers, strict=True)]
    gang.addresses = addresses
    for rank, worker in enumerate(gang.workers):
        worker.leased[call.id] = call
        worker.head_since = st.now
        st.emit(c.LeaseRank(worker.id, call, GangSeat(gang.id, rank, addresses, nodes)))
    ranks = ", ".join(f"{rank}: {worker.id}" for rank, worker in enumerate(gang.workers))
    call.note(st.now, "ranks", f"attempt {call.attempt} runs as {gang.size} ranks, {ranks}")


def _refuse(st: State, gang: Gang, call: Call, differ: str) -> None:
    """Fail a call whose ranks would run it with different packages, and let the gang go: another may agree."""
    label = call.label
    message = (
        f"The ranks of {label} disagree on their environment: {differ}. Their nodes built it at different times. "
        "`stoker images prune --older-than 0s --locks` removes what is not in use, on all nodes, and the next start "
        "builds it anew, alike everywhere; exact versions in the image (`numpy==2.1.0`) keep it so."
    )
    error = stoker_error("StartupError", message, {"call_id": call.id, "function": label})
    settling.fail(st, call, Result(Outcome.ERROR, error=error))
    _let_go(st, gang)
    disband(st, gang, "its ranks disagree on their environment")


def is_open(gang: Gang) -> bool:
    """Tell whether the attempt still decides how its call ends."""
    call = gang.call
    return call is not None and call.state is CallState.LEASED and call.attempt == gang.attempt


def rank_ended(st: State, worker: Worker, gang: Gang, result: Result) -> None:
    """A rank has reported how it ended."""
    call = gang.call
    rank = gang.ranks[worker.id]
    if call is None or gang.phase is not GangPhase.RUNNING or not is_open(gang):
        st.discard(result.payload)
    elif result.outcome is Outcome.VALUE:
        if rank == 0:
            gang.value = result
        else:
            st.discard(result.payload)
    elif result.outcome is Outcome.CANCELLED:
        st.discard(result.payload)
        rank_lost(st, gang, rank, e.WorkerGone(worker.id, "stopped", "it was told to end"))
        return
    else:
        gang.blame = named(result, rank, gang.size)
        call.note(st.now, "rank failed", f"rank {rank} of {gang.size}: {_kind_of(result)}")
        end_ranks(st, gang, "another rank has failed")
    progress(st, gang)


def rank_lost(st: State, gang: Gang, rank: int, how: e.WorkerGone, *, overdue: bool = False) -> None:
    """A rank ended without a word: the call goes on with those left, or the attempt is over."""
    call, pool = gang.call, gang.pool
    spec = pool.options.gang
    if call is None or spec is None:
        return
    if gang.blame is not None:
        st.discard(gang.blame.payload)
        gang.blame = None
    who = f"rank {rank} of {gang.size}"
    if overdue:
        settling.timed_out(st, call, who=who)
    elif how.cause != "memory" and spec.is_elastic and len(gang.workers) >= spec.least:
        gang.changing = True
        left = f"attempt {call.attempt}: {who} was lost ({how.detail}); it goes on with {len(gang.workers)}"
        call.note(st.now, "gang changed", left)
    else:
        gang.changing = False
        settling.lost(st, call, cause=how.cause, detail=f"{who}: {how.detail}", said=how.said)
    end_ranks(st, gang, "gang" if gang.changing else "another rank was lost")
    progress(st, gang)


def named(result: Result, rank: int, size: int) -> Result:
    """Return a failure that says whose it was."""
    error = result.error or ErrorInfo("StokerError", "It failed, and did not say how.")
    if "." in error.type_name:  # the user's own, whose message stays as it is
        error = replace(error, fields={**error.fields, "rank": rank, "ranks": size})
    else:
        error = replace(error, message=f"{error.message} It was rank {rank} of {size}.")
    return result._replace(error=error)


def _kind_of(result: Result) -> str:
    return result.error.name if result.error else result.outcome.name.lower()


def end_ranks(st: State, gang: Gang, reason: str, *, force: bool = False) -> None:
    """Tell all that still hold the attempt to let go; `look` kills those that do not."""
    call = gang.call
    if call is None:
        return
    grace = 0.0 if force else st.limits.gang_grace
    if gang.phase is not GangPhase.ENDING:
        gang.phase, gang.ending_since, gang.patience = GangPhase.ENDING, st.now, st.now + grace
    gang.patience = min(gang.patience, st.now + grace)
    for worker in gang.holders():
        st.emit(c.CancelRunning(worker.id, [call.id], [gang.attempt], grace, reason))
    st.sweep_by(st.now + BLAME_SECONDS)


def look(st: State, gang: Gang) -> None:
    """Notice that a call is over, and do what is due."""
    if gang.call is None:
        return
    if not is_open(gang) and gang.phase is not GangPhase.ENDING:
        end_ranks(st, gang, "its call is over")
    if gang.phase is GangPhase.ENDING and st.now >= gang.patience:
        for worker in gang.holders():
            _kill(st, worker, "it did not let go of an attempt that was over")
    elif gang.phase is GangPhase.GATHERING and st.now >= gang.patience and not gang.token:
        for worker in [worker for worker in gang.workers if worker.id not in gang.ports]:
            _kill(st, worker, "it did not say where its rank can be met")
    progress(st, gang)


def _kill(st: State, worker: Worker, reason: str) -> None:
    if worker.state is not WorkerState.STOPPING:
        worker.state, worker.stop_reason = WorkerState.STOPPING, reason
        st.emit(c.StopWorker(worker.id, 0.0, reason))


def progress(st: State, gang: Gang) -> None:
    """Settle the call where its end is known; free the gang when all its ranks have let go."""
    call = gang.call
    if call is None or gang.phase not in {GangPhase.RUNNING, GangPhase.ENDING}:
        return
    held = gang.holders()
    if is_open(gang) and gang.phase is GangPhase.RUNNING:
        if held:
            return
        result = gang.value or Result(Outcome.VALUE)
        if result.seconds:
            gang.pool.measure(result.seconds)
        gang.value = None
        settling.finish(st, call, result)
    elif is_open(gang) and gang.blame is not None and (not held or st.now >= gang.ending_since + BLAME_SECONDS):
        blame, gang.blame = gang.blame, None
        settling.finish(st, call, blame)
    if held:
        return
    if gang.changing and is_open(gang):
        _begin_anew(st, gang, call)
    else:
        _let_go(st, gang)


def _begin_anew(st: State, gang: Gang, call: Call) -> None:
    """Go on with the ranks that are left."""
    _drop_value(st, gang)
    if gang.broken:
        settling.displaced(st, call, detail=gang.broken)
        _let_go(st, gang)
        return
    begin(st, gang, call)


def _drop_value(st: State, gang: Gang) -> None:
    for result in (gang.value, gang.blame):
        if result is not None:
            st.discard(result.payload)
    gang.value = gang.blame = None


def _let_go(st: State, gang: Gang) -> None:
    """The gang has no call any more; one that is not whole is of no further use."""
    _drop_value(st, gang)
    gang.call, gang.phase, gang.changing, gang.token = None, GangPhase.IDLE, False, 0
    for worker in gang.workers:
        settling.after_lease_ended(st, worker)
    if gang.broken:
        disband(st, gang, gang.broken)
    st.touch(gang.pool)


def disband(st: State, gang: Gang, reason: str) -> None:
    """Let all workers of a gang go; those that are not up yet are stopped."""
    gang.broken = gang.broken or reason
    for worker in gang.workers:
        if worker.state is WorkerState.STARTING:
            _kill(st, worker, gang.broken)
        elif worker.state in {WorkerState.READY, WorkerState.AWAY}:
            drain_one(st, worker, gang.broken)


def worker_gone(st: State, worker: Worker, gang: Gang, how: e.WorkerGone, *, overdue: bool) -> None:
    """A gang's worker has ended, whatever it was doing. The worker is no longer among ``gang.workers``."""
    if not can_do_without(gang):
        gang.broken = gang.broken or f"{worker.id} of its gang has ended"
    call = gang.call
    if call is None:
        if gang.broken:
            disband(st, gang, gang.broken)
    elif gang.phase is GangPhase.GATHERING:
        _gather_anew(st, gang, call)
    elif is_open(gang) and call.id in worker.leased:
        rank_lost(st, gang, gang.ranks[worker.id], how, overdue=overdue)
    else:
        progress(st, gang)


def can_do_without(gang: Gang) -> bool:
    """Tell whether a gang that has just lost a worker is still one."""
    spec = gang.pool.options.gang
    up = [worker for worker in gang.workers if worker.state is not WorkerState.STARTING]
    return spec is not None and spec.is_elastic and len(up) >= spec.least and not gang.broken


def _gather_anew(st: State, gang: Gang, call: Call) -> None:
    """Nothing has begun: do it again with those left, or put the call back."""
    if is_open(gang) and not gang.broken:
        begin(st, gang, call)
        return
    if is_open(gang):
        settling.put_back(st, call)
    _let_go(st, gang)


def reconnected(st: State, worker: Worker, gang: Gang, held: dict[str, int]) -> None:
    """A worker of a known gang is back, and says what it holds."""
    call = gang.call
    for call_id, attempt in held.items():
        if call is None or (call_id, attempt) != (call.id, gang.attempt):
            st.emit(c.CancelRunning(worker.id, [call_id], [attempt], st.limits.gang_grace, "it is run elsewhere"))
    if call is None:
        return
    if gang.phase is GangPhase.GATHERING and worker.id not in gang.ports:
        st.emit(c.GatherRank(worker.id, call.id, gang.attempt))
    elif gang.phase is GangPhase.GATHERING:
        _lease_if_gathered(st, gang)
    elif gang.phase is GangPhase.ENDING and call.id in held:
        st.emit(c.CancelRunning(worker.id, [call.id], [gang.attempt], st.limits.gang_grace, "its call is over"))
    elif call.id in worker.leased and call.id not in held:
        attempt = gang.attempt
        st.at(st.now + STRAY_SECONDS, lambda: _stray(st, worker, gang, call, attempt))


STRAY_SECONDS = 1.0  # a result that was on its way when the connection broke is sent again within milliseconds


def _stray(st: State, worker: Worker, gang: Gang, call: Call, attempt: int) -> None:
    """A lease was lost with its connection: the rank has never begun, and the others wait for it in vain."""
    if st.workers.get(worker.id) is not worker or gang.call is not call or gang.attempt != attempt:
        return
    if worker.leased.pop(call.id, None) is None:
        return
    if gang.phase is GangPhase.RUNNING and is_open(gang):
        settling.displaced(st, call, detail=f"the lease of rank {gang.ranks[worker.id]} was lost")
        end_ranks(st, gang, "another rank has never begun")
    progress(st, gang)

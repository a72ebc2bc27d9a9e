"""Workers and nodes: when workers are started, drained and stopped, and what follows when they end."""

from __future__ import annotations

from dataclasses import replace

from stoker.core import (
    channels,
    crash_loops,
    gangs,
    handover,
    health,
    recovery,
    recycling,
    settling,
    taking_turns,
    trials,
)
from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.autoscaler import desired_workers
from stoker.core.calls import Call, Result
from stoker.core.draining import call_off_builds, drain
from stoker.core.intake import unschedulable
from stoker.core.placement import Capacity, Node, place, seats, shown, why_never
from stoker.core.pools import GangPhase, Pool, Worker, WorkerState
from stoker.core.state import State
from stoker.types import CallState, ErrorInfo, Growth, OptionsSpec, Outcome

TELL_WAITING_SECONDS = 2.0  # a pool without room says so to whoever waits for it
QUEUE_SWEEP_SECONDS = 0.1  # while calls wait, whether another worker would help is asked this often
START_RETRY_SECONDS = 0.5  # another program holds the capacity: ask again
BAD_STARTS_MAX = 6  # a death at the start may be a coincidence; so many in a row are the function's own
KILLED_STARTS_MAX = (
    9  # where the last was a kill (signal 9): no code ends itself so, though the kernel may for its memory
)
CLAIM_SECONDS = 10.0  # for which what is freed for a pool is kept for it
STEAL_AFTER_SECONDS = 0.25  # for which a pool without any worker waits before it takes one from a pool that has several


def scale(st: State, pool: Pool) -> None:
    """Start workers that would help; let go of the pool when it is retired and empty."""
    if not len(pool.queue) and pool.is_plain:
        pool.wanted_since, pool.waiting = 0.0, ""
        return  # the hot path: all there is to do is leased
    if pool.replaced_by and len(pool.queue):
        trials.move(st, pool)
    if st.recovering_until is not None or (pool.retired and _is_over(st, pool)) or pool.failed_trial:
        return
    if pool.options.recycle_after is not None:
        recycling.note_spent(st, pool, pool.options.recycle_after)
    if len(pool.queue):
        st.sweep_by(st.now + QUEUE_SWEEP_SECONDS)
    demand = pool.demand(st.now)
    have = demand.workers + demand.starting
    options = _scaling_options(pool)
    wanted = desired_workers(demand, options)
    if options.max_workers is not None:
        wanted = min(wanted, options.max_workers - _away(pool))
    wanted = recycling.renew(st, pool, max(wanted, 1) if pool.awaits else wanted)
    if pool.retired and not demand.queued:
        wanted = 0
    if wanted <= have:
        pool.wanted_since = 0.0
        pool.waiting = "for a worker to start" if demand.starting and demand.queued else ""
        return
    if st.now < pool.start_after:
        why = f": {pool.refusal}" if pool.refusal else ""
        what = "ended in their calls" if pool.deaths else "could not start"
        pool.waiting = f"{pool.start_after - st.now:.1f} s, after workers that {what}{why}"
        return
    first = taking_turns.must_wait(st, pool) or trials.must_wait(st, pool)
    if first:
        pool.waiting = first
        return
    other = _starving(st, pool)
    if other is not None and (have or not demand.queued or _has_claim(st, other)):
        pool.waiting = f"for {other.spec.label}, which has no worker yet"
        return
    for _ in range(crash_loops.at_once(pool, wanted - have)):
        if not demand.queued and _is_full(st, pool) and recycling.make_way(st, pool):
            break
        if not _start_one(st, pool):
            break
        crash_loops.tried(st, pool)


def _scaling_options(pool: Pool) -> OptionsSpec:
    """Return the options with what is counted by the autoscaler: gangs, and all that a worker runs at once."""
    if pool.options.batch is not None:
        return replace(pool.options, concurrency=pool.per_worker)
    return gangs.in_gangs(pool.options)


def _is_full(st: State, pool: Pool) -> bool:
    return pool.options.gang is None and place(st.nodes.values(), pool.needs) is None


def _is_over(st: State, pool: Pool) -> bool:
    for worker in list(pool.workers.values()):
        if worker.idle and not len(pool.queue):
            drain(st, worker, "its app has ended or was replaced")
    call_off_builds(st, pool)
    if pool.workers or len(pool.queue) or pool.backoff or pool.accepting or pool.clients:
        return False
    st.drop(pool)
    return True


def _away(pool: Pool) -> int:
    """Return how much of what a pool may have runs somewhere and is not counted as had: in workers, or in gangs."""
    if pool.options.gang is None:
        return pool.away
    return sum(1 for gang in pool.gangs.values() if gang.broken or gang.claim is not None)


def _start_one(st: State, pool: Pool) -> bool:
    if pool.options.gang is not None:
        if not gangs.start(st, pool):
            _wait_for_room(st, pool)
            return False
        pool.wanted_since, pool.told_waiting = 0.0, ""
        pool.waiting = "for its ranks to start"
        return True
    node = place(st.nodes.values(), pool.needs)
    if node is None:
        _wait_for_room(st, pool)
        return False
    st.worker_seq += 1
    worker = Worker(f"{st.prefix}{st.worker_seq}", pool, node=node.id, capacity=pool.needs, now=st.now)
    _add_worker(st, worker, node)
    pool.wanted_since, pool.told_waiting = 0.0, ""
    pool.waiting = "for a worker to start"
    st.emit(c.StartWorker(worker.id, pool.key, pool.spec, node.id, worker.capacity))
    return True


def _add_worker(st: State, worker: Worker, node: Node) -> None:
    st.workers[worker.id] = worker
    worker.pool.workers[worker.id] = worker
    node.held[worker.id] = worker.capacity


def _wait_for_room(st: State, pool: Pool) -> None:
    """Say what the pool waits for; make room by ending workers that others do not need, or have too many of."""
    never = why_never(st.nodes.values(), pool.needs, count=pool.least)
    error = (
        unschedulable(st, pool, count=pool.least) if st.growth is Growth.NEVER else None
    )  # elsewhere a node may come back
    if error is not None:
        _fail_queue(st, pool, error, final=True)
        return
    times = f"{pool.least} times " if pool.options.gang is not None else ""
    pool.waiting = f"for {times}{shown(pool.needs)} to be free"
    if not st.nodes:
        pool.waiting = "for a node to join"
    elif never:
        pool.waiting = f"for a node to be added: it asks for {never}"
    if not pool.wanted_since:
        pool.wanted_since = st.now
    waits = len(pool.queue) and not pool.workers  # one that has workers only wants more of them
    if waits and st.now - pool.wanted_since >= TELL_WAITING_SECONDS and pool.told_waiting != pool.waiting:
        pool.told_waiting = pool.waiting
        st.emit(c.TellPhase(pool.key, "waiting", pool.waiting))
    if never or not st.nodes or pool.role == trials.SHADOW:
        return  # nothing that ends here would help, or it is not to
    trials.give_way(st, pool)
    if pool.awaits:
        if not (_make_room(st, pool) or handover.may_wait(pool) or _may_fit_soon(st, pool)):
            pool.untried = handover.NO_ROOM
            handover.finish(st, pool)  # what the version before has is the room that this one needs
        return
    channels.reclaim_all(st)
    if not _make_room(st, pool) and not any(w.state is not WorkerState.STOPPING for w in pool.workers.values()):
        _steal(st, pool)


def _sites(st: State, pool: Pool) -> list[list[Node]]:
    """Return the nodes that together could hold what a pool needs to run anything."""
    nodes = list(st.nodes.values())
    return [nodes] if pool.options.gang is not None else [[node] for node in nodes]


def _fits(pool: Pool, rooms: dict[str, Capacity]) -> bool:
    if pool.options.gang is None:
        return any(pool.needs.fits(room) for room in rooms.values())
    return sum(seats(room, pool.needs) for room in rooms.values()) >= pool.least


def _coming_free(st: State, nodes: list[Node], *, of_busy: bool) -> dict[str, Capacity]:
    """Return what is free on nodes, and what workers on their way out will free: those that still run a call may take
    as long as it takes."""
    rooms = {node.id: node.free() for node in nodes}
    for node in nodes:
        for worker_id, held in node.held.items():
            worker = st.workers.get(worker_id)
            if worker is None or worker.state not in {WorkerState.DRAINING, WorkerState.STOPPING}:
                continue
            if of_busy or worker.state is WorkerState.STOPPING or not worker.leased:
                rooms[node.id] += held
    return rooms


def _make_room(st: State, pool: Pool) -> bool:
    """Drain idle workers of other pools, longest idle first, where that makes the pool fit."""
    for nodes in _sites(st, pool):
        rooms = _coming_free(st, nodes, of_busy=False)
        if _fits(pool, rooms):
            return True
        idle = [w for w in st.workers.values() if w.node in rooms and w.idle and _may_go(st, w, pool)]
        chosen = []
        for worker in sorted(idle, key=lambda w: w.idle_since):
            chosen.append(worker)
            rooms[worker.node] += worker.capacity
            if _fits(pool, rooms):
                for leaving in chosen:
                    drain(st, leaving, f"{pool.spec.label} needs its place")
                return True
    return False


def _may_fit_soon(st: State, pool: Pool) -> bool:
    """Tell whether a version to be tried would fit once others have been tried, or once idle ones may end for it."""
    waits_briefly = st.now - pool.wanted_since < handover.ROOM_SECONDS
    if waits_briefly:
        channels.reclaim_all(st)
    for nodes in _sites(st, pool):
        rooms = _coming_free(st, nodes, of_busy=False)
        for worker in st.workers.values():
            is_free = waits_briefly and not worker.leased and worker.state is WorkerState.READY
            ends = (is_free or (worker.idle and not worker.done)) and _is_spare(worker, pool)
            if worker.node in rooms and ((ends and not handover.is_kept(worker, pool)) or handover.is_tried(worker)):
                rooms[worker.node] += worker.capacity
        if _fits(pool, rooms):
            return True
    return False


def _may_go(st: State, worker: Worker, pool: Pool) -> bool:
    return _is_spare(worker, pool) and (not pool.awaits or handover.may_end(st, worker, pool))


def _is_spare(worker: Worker, pool: Pool) -> bool:
    other = worker.pool
    return other is not pool and not len(other.queue) and len(other.workers) > other.options.min_workers


def _steal(st: State, pool: Pool) -> None:
    """Have the pool with the most workers give one up after what it runs: none starves behind another's long queue."""
    if not len(pool.queue) or st.now - max(pool.wanted_since, pool.last_steal) < STEAL_AFTER_SECONDS:
        return
    sites = [(nodes, _coming_free(st, nodes, of_busy=True)) for nodes in _sites(st, pool)]
    if any(_fits(pool, rooms) for _, rooms in sites):
        return
    for nodes, rooms in sites:
        chosen: list[Worker] = []
        donors = [worker for node in nodes for worker in _donors(st, pool, node)]
        for worker in sorted(donors, key=lambda w: (w.idle, _live(w.pool)), reverse=True):
            chosen.append(worker)
            rooms[worker.node] += worker.capacity
            if _fits(pool, rooms):
                pool.last_steal = st.now
                for leaving in chosen:
                    drain(st, leaving, f"{pool.spec.label} has waited for a place")
                return


def _donors(st: State, pool: Pool, node: Node) -> list[Worker]:
    """Return workers of other pools that can be asked to end; a warm minimum must not lock others out."""
    return [w for w in st.workers.values() if w.node == node.id and w.pool is not pool and _may_be_taken(w)]


def _may_be_taken(worker: Worker) -> bool:
    """Tell whether ending a worker leaves its pool some progress: two pools must not take one place from each other
    before either has run a call on it."""
    if worker.gang is not None and worker.gang.phase is GangPhase.GATHERING:
        return False
    if worker.state is WorkerState.STARTING:
        return _live(worker.pool) > worker.pool.least or not len(worker.pool.queue)
    waits = len(worker.pool.queue) or worker.withheld
    return worker.state is WorkerState.READY and bool(worker.running or worker.done or not waits)


def _starving(st: State, pool: Pool) -> Pool | None:
    """Return a pool that has waited for its first worker: what is freed goes to it, not to a pool that has some."""
    for other in st.pools.values():
        behind = other.role == trials.SHADOW  # others do not wait for it
        if other is not pool and not behind and other.wanted_since and len(other.queue) and not _live(other):
            could = _fits(other, {node.id: node.free_of_others for node in st.nodes.values()})
            if could and st.now - other.wanted_since >= STEAL_AFTER_SECONDS:
                return other
    return None


def _has_claim(st: State, pool: Pool) -> bool:
    """Tell whether places are being freed for a pool: one that needs several of them gets none if each is taken as it
    comes free. It ends after a while, for the case that one of them is not freed soon."""
    return pool.last_steal >= pool.wanted_since and st.now - pool.last_steal < CLAIM_SECONDS


def _live(pool: Pool) -> int:
    return sum(1 for w in pool.workers.values() if w.state in {WorkerState.READY, WorkerState.STARTING})


def release_idle(st: State, pool: Pool) -> None:
    """Drain workers that have been idle for their function's ``idle_timeout``, the longest idle first.

    None while calls wait: they are about to be leased, also to a worker that was connected this very moment. Not so
    gangs: one that is free while calls wait may wait for ranks that do not come.
    """
    options = pool.options
    if len(pool.queue) and options.gang is None:
        return
    keep = options.min_workers + (options.buffer_workers if pool.running or len(pool.queue) else 0)
    idle = sorted((w for w in pool.workers.values() if w.idle), key=lambda w: w.idle_since)
    spare = _live(pool) - keep
    for worker in idle:
        if spare <= 0 or st.now - worker.idle_since < options.idle_timeout:
            break
        if worker.idle:  # else it goes with its gang already
            drain(st, worker, f"it was idle for {options.idle_timeout:g} s")
            spare -= 1 if worker.gang is None else len(worker.gang.workers)


def worker_connected(st: State, event: e.WorkerConnected) -> None:
    worker = st.workers.get(event.worker)
    if worker is None:
        st.emit(c.DrainWorker(event.worker, "this server does not know the worker"))
        return
    if worker.state is WorkerState.STARTING:
        seconds = st.now - worker.began
        pool = worker.pool
        pool.start_seconds = seconds if pool.start_seconds is None else (pool.start_seconds + seconds) / 2
        worker.phase = "running"
        st.emit(c.TellPhase(pool.key, "running", ""))
        pool.refusal = pool.untried = ""
        worker.ready_since = st.now
        crash_loops.started(st, worker)
        if pool.awaits:
            handover.finish(st, pool)
    if worker.state in {WorkerState.STARTING, WorkerState.AWAY}:
        worker.state = WorkerState.READY
    worker.is_remote = event.is_remote
    worker.idle_since = worker.head_since = st.now
    health.connected(st, worker)
    worker.revoking = False  # what was asked on the old connection may not have been heard
    if worker.pool.options.gang is not None:
        gangs.connected(st, worker, event)
        recovery.node_settled(st)
        st.touch(worker.pool)
        return
    recovery.reconcile(st, worker, dict(event.held), event.ages)
    channels.worker_back(st, worker)
    st.touch(worker.pool)


def worker_disconnected(st: State, event: e.WorkerDisconnected) -> None:
    worker = st.workers.get(event.worker)
    if worker is not None and worker.state is WorkerState.READY:
        worker.state = WorkerState.AWAY


def worker_progress(st: State, event: e.WorkerProgress) -> None:
    worker = st.workers.get(event.worker)
    if worker is None or worker.state is not WorkerState.STARTING:
        return
    if event.phase != worker.phase:
        worker.began = st.now  # building does not count as starting: it is not done again
    worker.phase = event.phase
    st.emit(c.TellPhase(worker.pool.key, event.phase, event.detail))
    if event.phase == "building":
        call_off_builds(st, worker.pool)


def worker_refused(st: State, event: e.WorkerRefused) -> None:
    worker = _remove(st, event.worker)
    if worker is None:
        return
    pool = worker.pool
    st.touch(pool)
    if worker.gang is not None:
        gangs.refused(st, worker, worker.gang)
    if worker.state in {WorkerState.DRAINING, WorkerState.STOPPING}:
        return  # it was called off: that says nothing about the function
    if event.retry:
        pool.start_after = st.now + START_RETRY_SECONDS
        pool.waiting = pool.refusal = event.error.message
        st.at(pool.start_after, lambda: st.touch(pool))
        return
    error = crash_loops.of_start(event.error, label=pool.spec.label)
    crash_loops.failed(st, pool, error.message, kind=error.type_name)
    if trials.refused(st, pool, error):
        return
    st.emit(c.TellPhase(pool.key, "failed", error.message))
    if not any(w.state in {WorkerState.READY, WorkerState.AWAY} for w in pool.workers.values()):
        _fail_queue(st, pool, error)


def _fail_queue(st: State, pool: Pool, error: ErrorInfo, *, final: bool = False) -> None:
    """Fail what waits: it could not have been run. Counts as a failed attempt, so retries apply unless it is final."""
    if not final:
        error = replace(error, fields={**error.fields, "retry_after": round(crash_loops.pause(pool, st.now), 3)})
    for call in pool.queue.waiting():
        if call.state is not CallState.QUEUED:
            continue
        pool.queue.discard(call)
        call.attempt += 1
        if final:
            pool.failed += 1
            settling.settle(st, call, CallState.FAILED, Result(Outcome.ERROR, error=error))
        else:
            settling.fail(st, call, Result(Outcome.ERROR, error=error))


def worker_gone(st: State, event: e.WorkerGone) -> None:
    """A worker's process has ended: run again what it was running, queue again what it had not started."""
    worker = _remove(st, event.worker)
    if worker is None:
        return
    pool = worker.pool
    leaving = worker.state in {WorkerState.DRAINING, WorkerState.STOPPING}
    if not leaving and event.cause != "unknown":
        trials.ended(st, worker, f"{event.detail}.{settling.last_output(event.said)}")
    if worker.channel is not None:
        for call in channels.worker_gone(st, worker, cause=event.cause, detail=event.detail):
            call.attempt = 1
            _end_under(st, worker, call, event)
    running = worker.running
    if worker.gang is not None:
        gangs.worker_gone(st, worker, worker.gang, event)
    else:
        _run_again(st, worker, running, event)
    # One that was lost together with its agent says nothing about the function.
    if running and not leaving and event.cause != "unknown":
        crash_loops.died(st, pool, running, event.detail)
    elif not worker.done and not running and not leaving and event.cause != "unknown":
        crash_loops.failed(st, pool, event.detail)
        killed = event.cause == "signal" and "signal 9" in event.detail
        if (
            not pool.failed_trial
            and pool.bad_starts >= (KILLED_STARTS_MAX if killed else BAD_STARTS_MAX)
            and worker.state is WorkerState.STARTING
        ):
            message = (
                f"{pool.bad_starts} workers of {pool.spec.label} in a row ended before they could take a call; the "
                f"last one: {event.detail}.{settling.last_output(event.said)}"
            )
            _fail_queue(st, pool, ErrorInfo("StartupError", message, mro=["StartupError"]))
    for other in st.pools.values():
        if (
            len(other.queue) or other is pool or other.is_alone or other.awaits
        ):  # that may have waited for this one's end
            st.touch(other)


def _run_again(st: State, worker: Worker, running: list[Call], event: e.WorkerGone) -> None:
    started = {call.id for call in running}
    waiting = [call for call in worker.leased.values() if call.id not in started]
    for call in reversed(waiting):
        if call.state is CallState.LEASED:
            settling.requeue(st, call)
    for call in reversed(running):
        if call.state is CallState.LEASED:
            _end_under(st, worker, call, event)


def _end_under(st: State, worker: Worker, call: Call, event: e.WorkerGone) -> None:
    if call.pool.failed_trial and call.pool.options.lost_retries:
        settling.displaced(st, call, detail="its version cannot run")
    elif worker.condemned and event.cause != "memory" and _is_overdue(st, worker, call):
        settling.timed_out(st, call)
    elif _was_ended_for_another(worker, call, event):
        settling.displaced(st, call, detail=worker.condemned)
    else:
        settling.lost(st, call, cause=event.cause, detail=event.detail, said=event.said)


def _was_ended_for_another(worker: Worker, call: Call, event: e.WorkerGone) -> bool:
    ended_by_us = bool(worker.condemned) and worker.state is WorkerState.STOPPING and event.cause != "memory"
    return ended_by_us and call.pool.options.lost_retries > 0


def _is_overdue(st: State, worker: Worker, call: Call) -> bool:
    return st.now - call.leased_at >= worker.pool.options.timeout


def _remove(st: State, worker_id: str) -> Worker | None:
    worker = st.workers.pop(worker_id, None)
    if worker is None:
        return None
    worker.pool.workers.pop(worker_id, None)
    node = st.nodes.get(worker.node)
    if node is not None:
        node.held.pop(worker_id, None)
        node.lent.pop(worker_id, None)
    recovery.node_settled(st)
    return worker


def node_reported(st: State, event: e.NodeReported) -> None:
    """Take in a node and the workers that run there; those we thought were there and are not have ended."""
    node = st.nodes.get(event.node)
    if node is None:
        node = st.nodes[event.node] = Node(event.node, event.total, event.free_of_others)
    node.address = event.address
    node.total, node.free_of_others = event.total, event.free_of_others
    _reconsider(st)
    reported = {worker_id for worker_id, _, _ in event.workers}
    for worker_id, key, capacity in event.workers:
        pool = st.pools.get(key)
        known = st.workers.get(worker_id)
        if known is not None:
            if event.anew and known.state is WorkerState.STOPPING:
                st.emit(c.StopWorker(worker_id, 0.0, known.stop_reason or "it was to end"))
            continue
        if pool is None:
            st.emit(c.StopWorker(worker_id, st.limits.stop_grace, "its function is not known to this server"))
            continue
        worker = Worker(worker_id, pool, node=node.id, capacity=capacity, now=st.now)
        worker.state = WorkerState.AWAY
        _add_worker(st, worker, node)
    for worker_id in event.starting:
        known = st.workers.get(worker_id)
        if known is None or known.state is WorkerState.STOPPING:
            st.emit(c.StopWorker(worker_id, 0.0, known.stop_reason if known else "nobody waits for it any more"))
    reported.update(event.starting)
    for worker in [w for w in st.workers.values() if w.node == node.id and w.id not in reported]:
        if event.anew or worker.state is not WorkerState.STARTING:
            worker_gone(st, e.WorkerGone(worker.id, "unknown", "it was gone when its node reported again"))
    st.recovering_nodes.discard(event.node)
    recovery.node_settled(st)
    for pool in st.pools.values():
        st.touch(pool)


def growth_changed(st: State, event: e.GrowthChanged) -> None:
    """Whether what no node can hold is refused is decided anew."""
    st.growth = event.growth
    _reconsider(st)
    for pool in st.pools.values():
        st.touch(pool)


def node_draining(st: State, event: e.NodeDraining) -> None:
    """Let the workers of a node go that will be taken away: what they run they finish, what waits goes elsewhere."""
    node = st.nodes.get(event.node)
    if node is None or node.draining:
        return
    node.draining = True
    for worker in [w for w in st.workers.values() if w.node == event.node]:
        if worker.state in {WorkerState.READY, WorkerState.STARTING, WorkerState.AWAY}:
            drain(st, worker, event.reason)
    for pool in st.pools.values():
        st.touch(pool)


def node_lost(st: State, event: e.NodeLost) -> None:
    """A node is past its lease, or dead: what ran there is run elsewhere."""
    st.nodes.pop(event.node, None)
    for worker in [w for w in st.workers.values() if w.node == event.node]:
        worker_gone(st, e.WorkerGone(worker.id, "unknown", event.reason))
    st.recovering_nodes.discard(event.node)
    recovery.node_settled(st)
    _reconsider(st)


def _reconsider(st: State) -> None:
    for pool in st.pools.values():
        pool.schedulable = False

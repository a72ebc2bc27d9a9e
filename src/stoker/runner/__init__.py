"""What runs user code inside an environment: zygotes that import it, and workers forked from them.

How an agent starts one (``<worker path>`` is a directory with nothing but ``stoker``, ``cloudpickle`` and
``threadpoolctl``, see `stoker.images.worker_path`)::

    ours, theirs = socket.socketpair()
    Popen(
        [python, "-s", f"{worker_path}/stoker/runner/bootstrap.py", str(theirs.fileno())],
        pass_fds=[theirs.fileno()], stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True, env=env,
    )
    theirs.close()
    ours.sendall(encode_line(ZygoteConfig(...)))

``env`` is the agent's own, without ``PYTHONPATH``, ``PYTHONHOME`` and ``PYTHONSTARTUP``, then the image's and
function's variables, then every one of `THREAD_VARIABLES` as ``"1"`` (with ``fresh`` too: the runner sets them before
it imports anything). What is said on the link after that stands in `stoker.protocol.zygotes`: one JSON object a line.

- `Ready` or `Failed` comes once; the agent watches the startup timeout, since an import may hang.
- `Ready.forkable` false: the agent closes the link, the process exits with status 0, and workers of this function start
  with ``ZygoteConfig.fresh`` set to what would have been their `Fork`. Such a process is the worker: its pid is the
  worker's, it says `Ready` or `Failed`, the link closes, and whoever started it collects it.
- A `Fork` is answered by `Forked`, and at the worker's end by `Exited`, in this order; or by `NotForked`.
- A worker is in a session of its own, with the zygote as parent. A zygote exits when its link closes; its workers do
  not, and become children of the nearest subreaper. Nothing but its own end takes a worker's pid from it.
- A worker ends with status 0 after `Drain` or ``recycle_after``, `EXIT_STOPPED` after SIGTERM (running code gets
  `Cancelled` first), `EXIT_ABANDONED` when the server stayed away past ``grace``, `EXIT_SETUP` where it could not join
  its cgroups or set its limits, with the reason in its log.
- Logs: lines are ``\\x1e<call id>\\x1f<o|e>\\x1f<text>\\n`` where Python's own streams wrote them (the call id is empty
  outside of calls); all else is native output. Several lines may come in one write, and a line without an end is one
  too.
"""

from __future__ import annotations

from stoker.runner.interrupts import AttemptTimeout, Cancelled, GangChanged

__all__ = ["AttemptTimeout", "Cancelled", "GangChanged"]

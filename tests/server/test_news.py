"""Output and phases: each to the program that began it all, and to those who follow."""

from __future__ import annotations

import pytest

from stoker.engine.base import PhaseChanged
from stoker.protocol import messages as m
from tests.waiting import wait_until

from .harness import Peer, Running, ScriptedWorker, spec


@pytest.fixture
def worker(running: Running, client: Peer, key: str) -> ScriptedWorker:
    client.submit(key, ["c-1.1"])
    worker = running.worker()
    worker.leased(1)
    return worker


def printed(running: Running, worker: str, key: str, **texts: str) -> None:
    """Have a worker print: by call id (with ``_`` for ``-`` and ``.``), or natively."""
    calls = [name.replace("_", "-", 1).replace("_", ".") if name != "native" else "" for name in texts]
    lines = m.LogLines(worker, key, calls, ["stdout"] * len(calls), [1.0] * len(calls), list(texts.values()))
    running.on_loop(lambda: running.server.engine_event(lines))


def logs(client: Peer, count: int) -> list[tuple[str, str]]:
    """Return the next lines that a client is told: (call, text)."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        notice = client.get(m.Notice)
        if notice.kind == "log":
            found += zip(notice.data["calls"], notice.data["texts"], strict=True)
    return found


def hears_nothing(client: Peer) -> bool:
    client.ask("blobs_missing", digests=[])
    return not any(isinstance(message, m.Notice) and message.kind == "log" for message, _ in client._came)


def test_output_goes_to_who_made_the_call_native_output_to_all_users_of_the_pool(
    running: Running, client: Peer, key: str, worker: ScriptedWorker
) -> None:
    other, stranger = running.client("c-2"), running.client("c-3")
    other.submit(key, ["c-2.1"])
    wait_until(lambda: "c-2.1" in running.server.plane.state.calls, message="both use the pool")
    printed(running, worker.id, key, c_1_1="mine\n", c_2_1="theirs\n", native="both\n")
    assert logs(client, 2) == [("c-1.1", "mine\n"), ("", "both\n")]
    assert logs(other, 2) == [("c-2.1", "theirs\n"), ("", "both\n")]
    assert hears_nothing(stranger)


def test_a_notice_says_where_its_lines_are_from(
    running: Running, client: Peer, key: str, worker: ScriptedWorker
) -> None:
    printed(running, worker.id, key, c_1_1="text\n")
    notice = client.get(m.Notice)
    while notice.kind != "log":
        notice = client.get(m.Notice)
    assert (notice.data["function"], notice.data["worker"]) == ("app.f", worker.id)
    assert (notice.data["streams"], notice.data["times"]) == (["stdout"], [1.0])


def test_output_of_nested_calls_goes_to_the_program_that_began_it_all(
    running: Running, client: Peer, worker: ScriptedWorker
) -> None:
    inner = running.register(client, spec("inner"))["inner"]
    nested = running.client("n-1", token=worker.token)
    nested.submit(inner, ["n-1.1"], parent="c-1.1")
    wait_until(lambda: len(running.engine.specs) == 2, message="a worker for the nested call was ordered")
    second = running.worker()
    second.leased(1)
    deeper = running.client("n-2", token=second.token)
    deeper.submit(inner, ["n-2.1"], parent="n-1.1")
    wait_until(lambda: "n-2.1" in running.server.plane.state.calls, message="the deepest call was made")
    printed(running, second.id, inner, n_1_1="nested\n", n_2_1="deeper\n", native="native\n")
    assert logs(client, 3) == [("n-1.1", "nested\n"), ("n-2.1", "deeper\n"), ("", "native\n")]
    assert hears_nothing(nested)
    assert hears_nothing(deeper)


def test_calls_that_name_each_other_as_parents_lead_nowhere(
    running: Running, client: Peer, key: str, worker: ScriptedWorker
) -> None:
    nested = running.client("n-1", token=worker.token)
    nested.submit(key, ["n-1.1"], parent="n-1.1")
    wait_until(lambda: "n-1.1" in running.server.plane.state.calls, message="the call was made")
    printed(running, worker.id, key, n_1_1="lost\n")
    assert hears_nothing(client)


@pytest.mark.parametrize(
    ("wanted", "texts"),
    [
        ({}, ["a", "b", "c"]),
        ({"app": "app"}, ["a", "b", "c"]),
        ({"app": "other"}, []),
        ({"function": "f"}, ["a", "b", "c"]),
        ({"function": "app.f"}, ["a", "b", "c"]),
        ({"function": "g"}, []),
        ({"call": "c-1.1"}, ["a"]),
        ({"call": "c-1.1", "function": "g"}, []),
        ({"worker": "w-other"}, []),
    ],
)
def test_followers_hear_what_they_follow(
    running: Running, key: str, worker: ScriptedWorker, wanted: dict[str, str], texts: list[str]
) -> None:
    follower = running.client("c-2")
    follower.ask("follow", **wanted)
    printed(running, worker.id, key, c_1_1="a", c_9_9="b", native="c")
    assert [text for _, text in logs(follower, len(texts))] == texts
    assert hears_nothing(follower)


def test_who_follows_its_own_call_hears_it_once(
    running: Running, client: Peer, key: str, worker: ScriptedWorker
) -> None:
    client.ask("follow", call="c-1.1")
    client.ask("follow", worker=worker.id)
    printed(running, worker.id, key, c_1_1="once\n", c_9_9="followed\n")
    assert logs(client, 2) == [("c-1.1", "once\n"), ("c-9.9", "followed\n")]
    assert hears_nothing(client)


def test_phases_are_told_to_those_who_wait(running: Running, client: Peer, key: str) -> None:
    running.engine.automatic = False
    stranger = running.client("c-3")
    client.submit(key, ["c-1.1"])
    wait_until(lambda: running.engine.specs, message="a worker was ordered")
    (worker,) = running.engine.specs
    running.on_loop(lambda: running.server.engine_event(PhaseChanged(worker, "building", "numpy")))
    notice = client.get(m.Notice)
    assert notice == m.Notice("phase", {"function": "app.f", "phase": "building", "detail": "numpy"})
    assert client.ask("call", id="c-1.1")["why"] == "it waits for its environment to be built"
    assert stranger.nothing(m.Notice)
    running.on_loop(lambda: running.engine.bring_up(worker))

"""Every screen fits 80 columns, says what to do where it is empty, and has a JSON form."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from typing import Any

import pytest

from stoker.errors import NotFound

from .conftest import Command, FakeSession

NOW = time.time()
CALL: dict[str, Any] = {
    "id": "c-01m82cc4h1p0tydr2ha5.00000004",
    "function": "digits-sweep.a_function_with_quite_a_long_name",
    "state": "failed",
    "created": NOW - 5,
    "started": NOW - 4,
    "seconds": 2.5,
    "attempts": 3,
    "worker": "w2-3",
    "error": "builtins.ValueError: [no] markup in here, and a sentence that goes on for longer than a screen is wide",
    "detached": True,
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "calls": [CALL],
    "apps": [
        {
            "app": "digits-sweep",
            "version": 12,
            "run_id": "",
            "created": NOW - 90_000,
            "current": True,
            "functions": [f"function_{i}" for i in range(20)],
            "queued": 1_000_000,
            "running": 2,
            "workers": 2,
        }
    ],
    "functions": [
        {
            "app": "digits-sweep",
            "name": "score",
            "version": 0,
            "run_id": "run-1",
            "key": "k",
            "queued": 3,
            "running": 2,
            "workers": 2,
            "idle": 1,
            "service_seconds": 0.25,
            "calls_done": 100,
            "failed": 0,
            "waiting": "for 4 cores to be free on any of the machines that there are, the largest of which has 2",
            "parameters": {"model": "a-model-with-quite-a-long-name/in-a-directory", "size": 3},
        }
    ],
    "workers": [
        {
            "id": "w2-3",
            "function": "digits-sweep.a_function_with_quite_a_long_name",
            "state": "busy",
            "pid": 123456,
            "node": "7c9d0b185962b6f200f471d39b0f6a54d975439dfd81e57fb11bba18",
            "host": "gpu-1",
            "cpus": 0.5,
            "memory_limit": 1 << 30,
            "memory": 300 << 20,
            "cpu_seconds": 7200.0,
            "calls_done": 12,
            "running": [CALL["id"]],
            "started": NOW - 60,
            "how": "fork",
        }
    ],
}


HEADERS = {
    "function", "version", "queued", "running", "workers", "done", "failed", "a call takes", "waiting", "app",
    "deployed", "functions", "call", "state", "made", "took", "tries", "error", "worker", "pid", "cores", "memory",
    "limit", "cpu time", "calls", "started", "node", "parameters",
}  # fmt: skip


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
@pytest.mark.parametrize("verb", list(ROWS))
def test_a_table_fits_the_screen_and_cuts_no_id_and_no_header(
    verb: str, columns: int, server: FakeSession, stoker_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    server.answers[verb] = ROWS[verb]
    outcome = stoker_command(verb, "list")
    assert outcome.status == 0, outcome.err
    assert max(len(line) for line in outcome.out.splitlines()) <= columns
    assert str(ROWS[verb][0].get("id", "digits-sweep")) in outcome.out
    assert HEADERS.issuperset(re.split(r" {2,}", outcome.out.splitlines()[0].strip()))


def test_an_id_is_whole_even_where_it_alone_fits_no_screen(
    server: FakeSession, stoker_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    server.answers["calls"] = [CALL]
    assert CALL["id"] in stoker_command("calls", "list").out


NAMES = {
    "calls": CALL["function"],
    "workers": CALL["function"],
    "functions": "digits-sweep.score",
    "apps": "digits-sweep",
}


@pytest.mark.parametrize("columns", [60, 80, 100])
@pytest.mark.parametrize("verb", list(NAMES))
def test_names_are_never_cut(
    verb: str, columns: int, server: FakeSession, stoker_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    server.answers[verb] = ROWS[verb]
    head, *lines = stoker_command(verb, "list").out.splitlines()
    title = verb.removesuffix("s") if verb in {"apps", "functions"} else "function"
    start = re.search(rf"\b{title}\b", head)
    assert start is not None
    end = next((at for at in range(start.end(), len(head)) if head[at] != " "), columns)
    assert "".join(line[start.start() : end].strip() for line in lines).strip("─").startswith(NAMES[verb])


@pytest.mark.parametrize("verb", list(NAMES))
def test_what_a_program_reads_has_all_in_one_line(
    verb: str, server: FakeSession, stoker_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    server.answers[verb] = ROWS[verb]
    lines = stoker_command(verb, "list").out.splitlines()
    assert len(lines) == 3 and "…" not in lines[2] and not any(line != line.rstrip() for line in lines)
    assert NAMES[verb] in lines[2]
    if verb == "apps":
        assert ", ".join(ROWS["apps"][0]["functions"]) in lines[2]


def test_a_call_that_came_over_http_says_its_request_and_status(
    server: FakeSession, stoker_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    http = {"method": "POST", "path": "/shop/[move]", "status": 422}
    server.answers["calls"] = [{**CALL, "state": "succeeded", "error": "", "http": http}]
    out = stoker_command("calls", "list").out
    assert "succeeded, 422" in out and "422 POST /shop/[move]" in out
    server.answers["calls"] = [{**CALL, "http": None}]
    assert "http" not in stoker_command("calls", "list").out


@pytest.mark.parametrize("verb", list(ROWS))
def test_json_has_every_field(verb: str, server: FakeSession, stoker_command: Command) -> None:
    server.answers[verb] = ROWS[verb]
    assert stoker_command(verb, "list", "--json").json == ROWS[verb]


@pytest.mark.parametrize("verb", list(ROWS))
def test_an_empty_list_says_what_to_do(verb: str, server: FakeSession, stoker_command: Command) -> None:
    server.answers[verb] = []
    outcome = stoker_command(verb, "list")
    assert outcome.out.startswith("No ")
    assert stoker_command(verb, "list", "--json").json == []


@pytest.mark.parametrize("verb", ["apps", "functions", "workers"])
def test_what_does_not_start_is_told_below(verb: str, server: FakeSession, stoker_command: Command) -> None:
    told = "its last 4 workers did not start or stay, the next one in 1.0 s: no [model]"
    server.answers["apps"] = [{**ROWS["apps"][0], "trouble": {"score": told}}]
    server.answers["functions"] = [{**ROWS["functions"][0], "trouble": told}]
    server.answers["workers"] = []
    said = stoker_command(verb, "list").out
    assert f"digits-sweep.score: {told}\n\n`stoker logs --app digits-sweep --function score` has all of it" in said


def test_filters_go_to_the_server_and_absent_ones_do_not(server: FakeSession, stoker_command: Command) -> None:
    server.answers["calls"] = []
    outcome = stoker_command("calls", "list", "--state", "running", "-n", "3")
    assert server.asked == [("calls", {"state": "running", "limit": 3})]
    assert "without options" in outcome.out


def test_a_call_is_shown_with_its_timeline_and_why_it_waits(server: FakeSession, stoker_command: Command) -> None:
    timeline = [
        {"at": NOW - 5, "event": "queued", "detail": "", "worker": ""},
        {"at": NOW - 3.5, "event": "running", "detail": "attempt 2", "worker": "w2-3"},
    ]
    server.answers["call"] = {**CALL, "timeline": timeline, "why": "it waits for [2] cores", "tags": {"team": "a"}}
    out = stoker_command("calls", "show", CALL["id"]).out
    for text in ("it waits for [2] cores", "1.5 s", "attempt 2", "team=a", "ValueError: [no] markup", "stoker logs"):
        assert text in out


def test_a_reason_is_shown_whole_however_narrow_the_screen_is(
    server: FakeSession, stoker_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    reason = "attempt 1: its worker ended (node gpu-1 died or left the cluster)"
    timeline = [
        {"at": NOW - 5, "event": "lost", "detail": reason, "worker": "", "host": ""},
        {"at": NOW - 3, "event": "running", "detail": "", "worker": "w2-3", "host": "gpu-2"},
    ]
    server.answers["call"] = {**CALL, "timeline": timeline}
    out = stoker_command("calls", "show", CALL["id"]).out
    shown = out.partition("lost")[2].partition("running")[0]
    assert "".join(shown.split())[: len(reason)].startswith("attempt1:itsworkerended(nodegpu-1diedorleftthecluster)")
    assert "gpu-2" in out


STATUS: dict[str, Any] = {
    "version": "1",
    "pid": 7,
    "term": 3,
    "uptime": 5.0,
    "socket": "/run/server.sock",
    "doors": [],
    "engine": "ray",
    "ray_address": "auto",
    "engine_place": "10.0.0.1:6379",
    "store": "a file",
    "blobs": "",
    "apps": 0,
    "workers": 0,
    "calls": {"queued": 0, "running": 0},
    "nodes": [],
    "outages": [{"node": "7c9d0b185962b6f200f471d3", "address": "10.0.0.2", "reason": "its agent is being started"}],
}


def test_status_says_which_machines_are_not_there_and_why(
    server: FakeSession, stoker_command: Command, own_home: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_SERVER", "stoker://127.0.0.1:1")
    server.answers["status"] = STATUS
    out = stoker_command("server", "status").out
    assert "the Ray cluster at 10.0.0.1:6379 (auto: the one that runs on this machine)" in out
    assert "! 10.0.0.2 (node 7c9d0b185962): its agent is being started" in out
    assert "No machine" not in out


def test_cancel_names_the_calls_that_were_not_open(server: FakeSession, stoker_command: Command) -> None:
    server.answers["cancel"] = {"cancelled": ["c-1"]}
    outcome = stoker_command("calls", "cancel", "c-1", "c-2", "--force")
    assert server.asked == [("cancel", {"ids": ["c-1", "c-2"], "force": True, "prefixes": True})]
    assert "cancelling c-1" in outcome.out
    assert "c-2" in outcome.err
    assert outcome.status == 1


def test_a_rollback_names_its_version_or_leaves_it_to_the_server(server: FakeSession, stoker_command: Command) -> None:
    server.answers["rollback"] = {"version": 4, "same_as": 2}
    rows: list[dict[str, Any]] = [
        {"version": 3, "current": True, "state": "not ready"},
        {"version": 2, "current": False, "state": "answers"},
    ]
    for beside in (0, 4):
        rows += [{"version": beside, "current": False, "state": "canary"}] if beside else []
        server.answers["history"] = rows
        assert "version 4, the same as version 2" in stoker_command("apps", "rollback", "digits").out
        assert server.asked[-1] == ("rollback", {"app": "digits", "seen": {"current": 3, "beside": beside}})
    for given in (("--to", "2"), ("2",), ("2", "--to", "2")):
        stoker_command("apps", "rollback", "digits", *given)
        assert server.asked[-1] == ("rollback", {"app": "digits", "version": 2})
    assert "one version is enough" in stoker_command("apps", "rollback", "digits", "2", "--to", "3").err


def test_the_history_says_what_each_version_is(server: FakeSession, stoker_command: Command) -> None:
    row = {"created": NOW, "by": "ann", "functions": ["f"], "done": 3, "failed": 0, "why": ""}
    server.answers["history"] = [
        {**row, "version": 1, "state": "", "percent": 0.0},
        {**row, "version": 2, "state": "current", "percent": 90.0},
        {**row, "version": 3, "state": "failed", "percent": 0.0, "why": "f: no such package", "failed": 2},
        {**row, "version": 4, "state": "canary", "percent": 10.0},
    ]
    out = stoker_command("apps", "history", "digits").out
    assert re.search(r"v4 +.*ann +canary +10 % ", out) and re.search(r"v2 +.*ann +current +90 % ", out)
    assert "v3 failed: f: no such package" in out


def test_a_shadow_is_shown_beside_the_version_that_answers(server: FakeSession, stoker_command: Command) -> None:
    server.answers["shadow"] = {
        "version": 4,
        "current": 3,
        "percent": 50.0,
        "since": NOW,
        "compared": 8,
        "equal": 6,
        "different": 1,
        "failed_in_shadow": 1,
        "failed_in_current": 0,
        "shed": {"load": 5},
        "open": 0,
        "seconds": {"current": {"p50": 0.01, "p99": 0.02}, "shadow": {"p50": 0.02, "p99": 0.3}},
        "examples": [{"call_id": "c-1", "function": "a.f", "current": "200: 1", "shadow": "ValueError: [no]"}],
    }
    server.answers["share"] = {"version": 4, "kind": "shadow", "percent": 50.0}
    out = stoker_command("apps", "shadow", "digits", "--percent", "50").out
    assert server.asked[0] == ("share", {"app": "digits", "percent": 50.0})
    for said in (
        "50 % of its calls",
        "6 (75 %)",
        "1 (12.5 %) in the shadow only",
        "p99 300 ms",
        "v4   ValueError: [no]",
    ):
        assert said in out, out
    assert "others needed the room" in out
    assert "no share of the calls" in stoker_command("apps", "shadow", "digits", "--percent", "101").err


def test_apps_say_what_stands_beside_them_and_what_could_not_run(server: FakeSession, stoker_command: Command) -> None:
    row = {"created": NOW, "queued": 0, "running": 0, "workers": 1, "functions": ["f"]}
    server.answers["apps"] = [
        {**row, "app": "a", "version": 3, "beside": {"version": 4, "kind": "canary", "percent": 2.5}, "stopped": None},
        {**row, "app": "b", "version": 1, "beside": None, "stopped": {"version": 2, "at": NOW, "why": "f: it died"}},
    ]
    out = stoker_command("apps", "list").out
    assert "v3 + v4 canary 2.5 %" in out
    assert "b: v2 was stopped" in out and "v1 answers all calls.\nf: it died" in out


def test_logs_are_printed_with_their_function(server: FakeSession, stoker_command: Command) -> None:
    server.answers["logs"] = {
        "lines": [
            {"worker": "w", "function": "a.f", "call": "c", "stream": "stdout", "time": 1e9, "text": "hello"},
            {"worker": "w", "function": "a.f", "call": "", "stream": "stderr", "time": 2e9, "text": "[bold]oh[/bold]"},
        ]
    }
    plain = "a.f | hello\na.f stderr | [bold]oh[/bold]\n"
    assert stoker_command("logs", "--app", "a", "--no-timestamps").out == plain
    assert server.asked == [("logs", {"app": "a", "tail": 100})]
    stamped = stoker_command("logs", "--app", "a").out
    assert re.fullmatch(r"2001-09-0\d \d\d:\d\d:\d\d\.000 a\.f \| hello", stamped.splitlines()[0])
    assert json.loads(stoker_command("logs", "--json").out.splitlines()[0])["time"] == 1e9


def test_logs_of_a_time(server: FakeSession, stoker_command: Command) -> None:
    server.answers["logs"] = {"lines": []}
    server.answers.update(ROWS)
    stoker_command("logs", "--since", "10m", "--until", "2026-01-31T09:30")
    asked = next(params for verb, params in server.asked if verb == "logs")
    assert abs(time.time() - 600 - asked["since"]) < 60
    assert asked["until"] == datetime(2026, 1, 31, 9, 30).timestamp()
    wrong = stoker_command("logs", "--since", "yesterday")
    assert wrong.status == 2
    assert "--since yesterday is neither a duration nor a time" in wrong.err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--app", "nope", "There is no app 'nope'"),
        ("--function", "nope", "There is no function 'nope'"),
        ("--function", "digits-sweep.score.best", "its output is among its class's, --function digits-sweep.score"),
        ("--call", "zzz", "There is no call zzz"),
        ("--worker", "w9", "There is no worker 'w9'"),
    ],
)
def test_logs_of_what_is_not_there(
    option: str, value: str, said: str, server: FakeSession, stoker_command: Command
) -> None:
    server.answers.update(ROWS, logs={"lines": []}, call=NotFound("There is no call zzz."))
    outcome = stoker_command("logs", option, value)
    assert outcome.status == 1
    assert said in outcome.err
    assert outcome.out == ""


def test_logs_of_what_is_silent(server: FakeSession, stoker_command: Command) -> None:
    server.answers.update(ROWS, logs={"lines": []}, call=CALL)
    for narrowed in ([], ["--app", "digits-sweep", "--function", "score"], ["--call", CALL["id"]]):
        outcome = stoker_command("logs", *narrowed)
        assert outcome.out.startswith("No output: ")
        assert outcome.status == 0


def test_the_history_of_an_unknown_app_is_an_error(server: FakeSession, stoker_command: Command) -> None:
    server.answers["history"] = []
    outcome = stoker_command("apps", "history", "nope")
    assert outcome.status == 1
    assert "No app 'nope' was ever deployed." in outcome.err


def test_an_error_of_the_server_is_one_line(server: FakeSession, stoker_command: Command) -> None:
    server.answers |= {"history": [], "undeploy": NotFound("No app 'x' is deployed.")}
    outcome = stoker_command("apps", "stop", "x")
    assert outcome.err.splitlines()[0] == "error: No app 'x' is deployed."
    assert outcome.status == 1


@pytest.mark.parametrize(("command", "verb"), [("promote", "promote"), ("abort", "abort"), ("stop", "undeploy")])
def test_what_ends_a_version_is_for_the_one_that_was_seen(
    command: str, verb: str, server: FakeSession, stoker_command: Command
) -> None:
    rows = [{"version": 3, "current": False, "state": "canary"}, {"version": 2, "current": True, "state": "current"}]
    server.answers |= {"history": rows, verb: {"version": 3, "was": "canary", "current": 2}}
    assert stoker_command("apps", command, "shop").status == 0
    assert server.asked[-1] == (verb, {"app": "shop", "seen": {"current": 2, "beside": 3}})


@pytest.mark.parametrize("command", [("calls", "list"), ("workers", "list"), ("logs",), ("apps", "list")])
def test_without_a_server_every_command_says_how_to_start_one(
    command: tuple[str, ...], own_home: object, stoker_command: Command
) -> None:
    outcome = stoker_command(*command)
    assert outcome.status == 1
    assert outcome.err.startswith("error: No server runs. Start one with `stoker server start`")
    assert outcome.out == ""


def test_status_and_stop_without_a_server(own_home: object, stoker_command: Command) -> None:
    assert stoker_command("server", "status").status == 1
    assert stoker_command("server", "status", "--json").json == {"running": False}
    assert stoker_command("server", "stop").out == "No server runs.\n"


def test_a_misspelt_command_gets_a_suggestion(stoker_command: Command) -> None:
    outcome = stoker_command("rnu")
    assert outcome.status == 2
    assert "Did you mean 'run'?" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--result-retention", "banana"],
            "--result-retention banana is not a duration. Write a number and a unit, as",
        ),
        (["--node-memory", "much"], '--node-memory much is not a size. Write a number and a unit, as in "512MiB"'),
        (["--home", "/proc/version"], "--home /proc/version cannot be used: /proc/version is not a directory."),
        (["--home", "/dev/null/home"], "--home /dev/null/home cannot be used: /dev/null is not a directory."),
        (["calls", "list", "--state", "lost"], "--state lost: there is no such state. States are: accepting, queued"),
    ],
)
def test_values_that_cannot_be_read_are_a_wrong_use(
    arguments: list[str], said: str, own_home: object, stoker_command: Command
) -> None:
    outcome = stoker_command(*arguments, *(["apps", "list"] if "calls" not in arguments else []))
    assert outcome.status == 2
    assert said in outcome.err
    assert "timedelta" not in outcome.err


def test_images_of_an_empty_home(own_home: object, stoker_command: Command) -> None:
    assert stoker_command("images", "list").out.startswith("No environments yet.")
    assert stoker_command("images", "list", "--json").json == []
    assert stoker_command("images", "prune", "--older-than", "0s").out.startswith("Nothing to remove")
    assert "There are: none" in stoker_command("images", "lock", "abc").err
    wrong = stoker_command("images", "prune", "--older-than", "soon").err
    assert "--older-than soon is not a duration. Write it as 30d, 12h" in wrong
    assert "timedelta" not in wrong


def test_doctor_tells_facts_with_what_follows(stoker_command: Command) -> None:
    found = stoker_command("doctor", "--json").json
    assert {"system", "capacity", "interpreters", "shared memory"} <= {fact["name"] for fact in found}
    assert all(fact["meaning"] for fact in found)
    out = stoker_command("doctor").out
    assert max(len(line) for line in out.splitlines()) <= 100


def test_a_version_that_is_not_ready_is_shown_as_such(server: FakeSession, stoker_command: Command) -> None:
    row = {"created": NOW, "by": "ann", "functions": ["f", "g"], "done": 3, "failed": 0, "why": ""}
    server.answers["history"] = [
        {**row, "version": 1, "state": "never ready", "percent": 0.0, "answers": [], "why": "f: no weights"},
        {**row, "version": 2, "state": "answers", "percent": 100.0, "answers": ["f"]},
        {**row, "version": 3, "state": "not ready", "percent": 100.0, "answers": ["g"]},
        {**row, "version": 4, "state": "starting", "percent": 0.0, "answers": []},
    ]
    out = stoker_command("apps", "history", "digits").out
    for said in (
        r"v4 .*starting +0 % ",
        r"v3 .*not ready +100 % of g ",
        r"v2 .*answers +100 % of f ",
        r"v1 never ready: f",
    ):
        assert re.search(said, out), (said, out)
    of_apps = {"created": NOW, "queued": 0, "running": 0, "workers": 2, "run_id": "", "functions": ["f", "g"]}
    awaits = {"version": 2, "state": "not ready", "functions": ["f", "g"]}
    server.answers["apps"] = [{**of_apps, "app": "digits", "version": 3, "awaits": awaits}]
    assert "v3 not ready, v2 answers" in stoker_command("apps", "list").out


def test_a_rollback_says_what_it_ended_and_what_does_not_start(server: FakeSession, stoker_command: Command) -> None:
    ended = {"version": 3, "was": "canary"}
    server.answers["history"] = []
    server.answers["rollback"] = {"version": 2, "same_as": 2, "ended": ended}
    out = stoker_command("apps", "rollback", "digits").out
    assert "version 3 of digits is no canary any more: version 2, the current one, answers all calls" in out
    server.answers["rollback"] = {"version": 4, "same_as": 1, "ended": ended, "untried": {"f": "no room"}}
    out = stoker_command("apps", "rollback", "digits", "1").out
    assert "version 3, which was a canary, is none any more" in out and "f took over untried: no room" in out
    server.answers["rollback"] = {"version": 4, "same_as": 1, "waits": {"f": "no weights"}, "goes_on": {"f": 3}}
    outcome = stoker_command("apps", "rollback", "digits")
    assert "is now" not in outcome.out and "digits is deployed as version 4, the same as version 1" in outcome.out
    assert outcome.status == 1 and "digits.f is not ready in version 4, and version 3 goes on" in outcome.err
    assert "no weights" in outcome.err and "version 3 goes on answering for it: f" in outcome.out
    told = stoker_command("apps", "rollback", "digits", "--json")
    assert (told.status, told.json["not_ready"]) == (1, {"f": "no weights"})
    server.answers["rollback"] = {"version": 4, "same_as": 1, "replaced_by": 5}
    outcome = stoker_command("apps", "rollback", "digits")
    assert outcome.status == 1 and "version 5 of digits has replaced version 4 before" in outcome.err
    server.answers["rollback"] = {"version": 2, "same_as": 2, "ended": {**ended, "already": "was aborted (by ann)"}}
    assert "no canary any more already, as it was aborted (by ann): version 2" in " ".join(
        stoker_command("apps", "rollback", "digits").out.split()
    )

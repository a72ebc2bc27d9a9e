"""`stoker apps`: the versions of an app, and what stands beside the current one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from stoker.cli.interrupts import saying_that_it_goes_on
from stoker.cli.screen import Column, ago, count, escape, fail, say, show_facts, show_json, show_rows, since
from stoker.cli.server_requests import ask, ask_until_ready
from stoker.cli.usage import WrongUsage
from stoker.client.deploy_warnings import of_gone, of_not_ready, of_replaced, of_untried
from stoker.client.seen_versions import seen_versions
from stoker.errors import NotFound
from stoker.quantities import format_duration

AppName = Annotated[str, typer.Argument(metavar="APP", help="The app's name.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Percent = Annotated[float, typer.Argument(metavar="PERCENT", help="Of the calls: 0 to 100.", show_default=False)]

PATIENCE_SECONDS = 2.0
STATE_STYLES = {
    "current": "green",
    "answers": "green",  # the version before, until the current one is ready
    "starting": "cyan",
    "not ready": "red",
    "canary": "cyan",
    "shadow": "cyan",
    "failed": "red",
    "never ready": "red",
    "aborted": "yellow",
}
ENDED = {"failed", "aborted", "replaced", "never ready"}  # of which is said why
SHED = {
    "no room": "nothing was free for a worker of it",
    "load": "others needed the room, or calls waited",
    "streams": "streams and web apps are not mirrored",
    "big inputs": "its input was too big to be kept twice",
    "big results": "a result was too big to be compared",
}


def _state(row: Mapping[str, Any]) -> str:
    state = row["state"]
    style = STATE_STYLES.get(state)
    return f"[{style}]{state}[/{style}]" if style else state


def _share(row: Mapping[str, Any]) -> str:
    if row["state"] in {"", *ENDED}:
        return ""
    answers = row.get("answers", row["functions"])
    some = answers if 0 < len(answers) < len(row["functions"]) else []
    return f"{row['percent']:g} %" + (f" of {', '.join(some)}" if some else "")


COLUMNS = (
    Column("version", lambda row: f"v{row['version']}", right=True),
    Column("deployed", since("created"), right=True),
    Column("by", lambda row: escape(row["by"]), spare=3),
    Column("state", _state),
    Column("calls", _share, right=True),
    Column("done", count("done"), right=True, spare=2),
    Column("failed", count("failed"), right=True, spare=1),
    Column("functions", lambda row: ", ".join(row["functions"]), flexible=True, wraps=True, spare=4),
)


def history(name: AppName, as_json: AsJson = False) -> None:
    """List the versions of an app, the newest first: when, by whom, and what part of the calls each answers."""
    rows = sorted(ask("history", app=name), key=lambda row: -row["version"])
    if not rows:
        raise NotFound(f"No app {name!r} was ever deployed. `stoker apps list` shows those that are.")
    show_rows(rows, COLUMNS, as_json=as_json, empty="")
    if as_json:
        return
    for row in rows:
        if row["why"] and (row["state"] in ENDED or row["percent"] or row.get("current")):
            say(f"\nv{row['version']} {row['state']}: {row['why']}")


def rollback(
    name: AppName,
    version: Annotated[int | None, typer.Argument(help="As --to.", show_default=False)] = None,
    to: Annotated[
        int | None, typer.Option(metavar="VERSION", help="The version to go back to; without it, the one before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Deploy an earlier version of an app again, as a new version; where one stands beside the current, end that."""
    if version is not None and to is not None and version != to:
        raise WrongUsage(f"{version} and --to {to}: one version is enough.")
    wanted = to if to is not None else version
    versions = seen(name) if wanted is None else None
    with telling_that_it_waits(name) as begin, saying_that_it_goes_on(name):
        begin()
        made = ask_until_ready("rollback", app=name, version=wanted, seen=versions)
    replaced_by = made.get("replaced_by")
    ended, not_ready, untried = made.get("ended"), made.get("waits", {}), made.get("untried", {})
    goes_on, gone = made.get("goes_on", {}), made.get("gone", [])
    if as_json:
        told = {"app": name, "version": made["version"], "same_as": made["same_as"]}
        told |= {"ended": ended, "not_ready": not_ready, "goes_on": goes_on, "gone": gone, "untried": untried}
        show_json({**told, "replaced_by": replaced_by})
    elif made["version"] == made["same_as"]:
        already = f" already, as it {ended['already']}" if ended.get("already") else ""
        say(
            f"version {ended['version']} of {name} is no {ended['was']} any more{already}: version {made['version']}, "
            f"the current one, answers all calls\n  `stoker apps rollback {name} --to VERSION` goes back from that one "
            "as well"
        )
    else:
        begins = "is deployed as" if not_ready or replaced_by is not None else "is now"
        say(f"{name} {begins} version {made['version']}, the same as version {made['same_as']}")
        say_goes_on(goes_on)
        say_ended(ended)
        say_gone(gone)
        say_untried(untried)
    if tell_replaced(name, made["version"], replaced_by) or tell_not_ready(name, made["version"], not_ready, goes_on):
        raise typer.Exit(1)


def seen(name: str) -> dict[str, int]:
    """Return which version is the current one now, and which stands beside it: those that a change is meant for."""
    return seen_versions(ask("history", app=name))


def canary(name: AppName, percent: Percent, as_json: AsJson = False) -> None:
    """Change what part of the calls the version beside the current one gets."""
    _check(percent)
    made = ask("share", app=name, percent=percent)
    if as_json:
        show_json({"app": name, **made})
    else:
        what = "answers" if made["kind"] == "canary" else "is mirrored"
        say(f"version {made['version']} of {name} {what} {percent:g} % of the calls")


def promote(name: AppName, as_json: AsJson = False) -> None:
    """Make the version beside the current one the current one; the one before finishes what it has accepted."""
    made = ask("promote", app=name, seen=seen(name))
    if as_json:
        show_json({"app": name, **made})
    else:
        say(
            f"{name} is now version {made['version']}, which was a {made['was']}; `stoker apps rollback {name}` goes "
            "back"
        )


def abort(name: AppName, as_json: AsJson = False) -> None:
    """End the version beside the current one, which then answers all calls again; accepted ones are finished."""
    made = ask("abort", app=name, seen=seen(name))
    if as_json:
        show_json({"app": name, **made})
    else:
        say(
            f"version {made['version']} of {name} is no {made['was']} any more: version {made['current']} answers all "
            "calls"
        )


def shadow(
    name: AppName,
    percent: Annotated[float | None, typer.Option(help="Change what part of the calls is mirrored.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the shadow has answered beside the current version."""
    if percent is not None:
        _check(percent)
        ask("share", app=name, percent=percent)
    found = ask("shadow", app=name)
    if as_json:
        show_json({"app": name, **found})
        return
    show_facts(_facts(name, found))
    if found["examples"]:
        say("\nThe latest differences:")
        for example in found["examples"][-5:]:
            say(f"\n  {example['function']}, call {example['call_id']}")
            say(f"    v{found['current']:<3} {example['current']}")
            say(f"    v{found['version']:<3} {example['shadow']}")


def _facts(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    compared = found["compared"]
    facts = {
        "app": f"{name}: version {found['current']} answers; {found['percent']:g} % of its calls are mirrored to "
        f"version {found['version']}",
        "compared": f"{compared} since {ago(found['since'])}",
        "equal": _of(found["equal"], compared),
        "different": _of(found["different"], compared, style="yellow"),
        "failed": f"{_of(found['failed_in_shadow'], compared, style='red')} in the shadow only, "
        f"{found['failed_in_current']} in the current version only",
    }
    for side, version in (("current", found["current"]), ("shadow", found["version"])):
        seconds = found["seconds"][side]
        if seconds["p50"] is not None:
            facts[f"v{version} took"] = (
                f"p50 {format_duration(seconds['p50'])}, p99 {format_duration(seconds['p99'])}, queueing included"
            )
    if found["open"] and found.get("waiting"):
        facts["waiting"] = f"{found['open']}, {found['waiting']}"
    for why, number in sorted(found["shed"].items()):
        facts[f"left out: {why}"] = f"{number} ({SHED.get(why, why)})"
    return facts


def _of(number: int, whole: int, *, style: str = "") -> str:
    text = f"{number} ({100 * number / whole:.3g} %)" if whole else str(number)
    return f"[{style}]{text}[/{style}]" if style and number else text


def _check(percent: float) -> None:
    if not 0 <= percent <= 100:
        raise WrongUsage(f"{percent:g} is no share of the calls in percent: a number from 0 to 100.")


def say_ended(ended: Mapping[str, Any] | None) -> None:
    """Say which version does not stand beside the current one any more."""
    if ended:
        say(f"  version {ended['version']}, which was a {ended['was']}, is none any more")


def say_goes_on(goes_on: Mapping[str, int]) -> None:
    """Say which version answers in the place of one that is not ready."""
    for version in sorted({*goes_on.values()}):
        names = ", ".join(sorted(name for name, one in goes_on.items() if one == version))
        say(f"  version {version} goes on answering for it: {names}")


def say_gone(gone: Sequence[str]) -> None:
    """Say which functions only the version before has."""
    for told in of_gone(gone):
        say(f"  {told}")


def say_untried(untried: Mapping[str, str]) -> None:
    """Say of which functions nobody knows yet whether the new version of them starts."""
    for told in of_untried(untried):
        say(f"  {told}")


def tell_not_ready(app: str, version: int, not_ready: Mapping[str, str], goes_on: Mapping[str, int]) -> bool:
    """Tell whether a version cannot take over, or answer at all, and say so: nobody else would."""
    for told in of_not_ready(app, version, not_ready, goes_on):
        fail(told)
    return bool(not_ready)


def tell_replaced(app: str, version: int, by: int | None) -> bool:
    """Tell whether a version was replaced before anybody has seen that it is ready, and say so."""
    for told in of_replaced(app, version, by):
        fail(told)
    return by is not None


@contextmanager
def telling_that_it_waits(app: str) -> Iterator[Callable[[], None]]:
    """Say so where a version does not take over at once, from when what is yielded is called."""
    text = f"deploying {app} … where the last version was ever ready, the new one is before it takes over"
    telling = threading.Timer(PATIENCE_SECONDS, lambda: print(text, file=sys.stderr))
    telling.daemon = True
    try:
        yield telling.start
    finally:
        telling.cancel()


def says_awaited(row: Mapping[str, Any]) -> str:
    """Return what an app's current version waits for to take over, for its row in a list."""
    awaits = row.get("awaits")
    if not awaits:
        return ""
    what = "" if len(awaits["functions"]) == len(row["functions"]) else f" {', '.join(awaits['functions'])}"
    return f" {awaits['state']}, v{awaits['version']} answers{what}"


def says_beside(row: Mapping[str, Any]) -> str:
    """Return what stands beside an app's current version, for its row in a list."""
    beside = row.get("beside")
    return f" + v{beside['version']} {beside['kind']} {beside['percent']:g} %" if beside else ""


def say_stopped(rows: list[dict[str, Any]]) -> None:
    """Say which versions were to follow the current ones and could not run."""
    for row in rows:
        stopped = row.get("stopped")
        if stopped:
            say(
                f"\n{row['app']}: v{stopped['version']} was stopped {ago(stopped['at'])}; v{row['version']} answers all"
                f" calls.\n{stopped['why']}"
            )

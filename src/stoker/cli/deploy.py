"""`stoker deploy`: apps that stay, for every program of this user."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stoker.cli.environments import prepare
from stoker.cli.interrupts import saying_that_it_goes_on
from stoker.cli.loading import by_name, load, split_target
from stoker.cli.screen import say, show_json, warn
from stoker.cli.server_requests import persistent_session
from stoker.cli.usage import WrongUsage
from stoker.cli.versions import (
    say_ended,
    say_goes_on,
    say_gone,
    say_untried,
    tell_not_ready,
    tell_replaced,
    telling_that_it_waits,
)
from stoker.client.app import STRATEGIES, App, Plan
from stoker.client.deploy_warnings import in_own, of_own_environment
from stoker.errors import InvalidRequest


def deploy(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py", help="The file that defines the app.", show_default=False)
    ],
    name: Annotated[str | None, typer.Option(help="Deploy under this name instead of the app's own.")] = None,
    is_module: Annotated[bool, typer.Option("-m", help="The target is a module's name, not a file.")] = False,
    canary: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", help="Beside the current version: it answers so many percent of the calls."),
    ] = None,
    is_shadow: Annotated[
        bool, typer.Option("--shadow", help="Beside the current version: calls are mirrored to it, and compared.")
    ] = False,
    shadow_percent: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="As --shadow, of so many percent of the calls.")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="rolling, or recreate: the old version's workers end before the new one's start."),
    ] = None,
    builds: Annotated[
        bool, typer.Option("--build/--no-build", help="Build environments that are not there yet before it takes over.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Deploy an app to the server, as a new version: from then on any program may call its functions by name."""
    source, function = split_target(target)
    if function:
        raise WrongUsage(
            f"{target}: `stoker deploy` deploys all functions of an app together, so it takes {source} without "
            f"::{function}. What is not to be deployed with it belongs to an app of its own."
        )
    shadow = shadow_percent if shadow_percent is not None else 100.0 if is_shadow else None
    _check(canary, shadow, strategy)
    persistent_session()  # no server: say so before the file is run
    program = load(source, is_module=is_module)
    if name is not None:
        if len(program.apps) > 1:
            raise InvalidRequest(
                f"{source} defines {len(program.apps)} apps: --name can be given to a single one only."
            )
        _rename(program.apps[0], name)
    plans = [(app, app.plan()) for app in program.apps]
    for _, plan in plans:  # all of them before the first is deployed
        prepare(*plan, source=f"-m {source}" if is_module else source, builds=builds, silent=as_json)
    done: list[dict[str, Any]] = []
    try:
        for app, plan in plans:
            done.append(_deploy_one(app, plan, canary=canary, shadow=shadow, strategy=strategy))
    except BaseException:
        for item in done:
            warn(f"{item['app']} was deployed before that, version {item['version']}")
        raise
    if as_json:
        show_json(done)
    wanted = "canary" if canary is not None else "shadow" if shadow is not None else ""
    for item, app in zip(done, program.apps, strict=True) if not as_json else ():
        _say(item, wanted)
        for name_of_one, found in app.functions.items():
            for call in by_name(item["app"], name_of_one, found):
                say(f"  {call}")
    replaced = [item for item in done if tell_replaced(item["app"], item["version"], item["replaced_by"])]
    unready = [
        item for item in done if tell_not_ready(item["app"], item["version"], item["not_ready"], item["goes_on"])
    ]
    if replaced or unready:
        raise typer.Exit(1)


def _deploy_one(app: App, plan: Plan, **how: Any) -> dict[str, Any]:
    with telling_that_it_waits(app.name) as begin, saying_that_it_goes_on(app.name):
        begin()
        version = app.deploy_planned(plan, **how)
    return {
        "app": app.name,
        "version": version,
        "functions": sorted(app.functions),
        "unchanged": not app.deployed_anew,
        "urls": app.urls,
        "no_http": app.no_http,
        "beside": app.beside,
        "ended": app.ended,
        "not_ready": app.not_ready,
        "goes_on": app.goes_on,
        "gone": app.gone,
        "untried": app.untried,
        "replaced_by": app.replaced_by,
        "own_environment": in_own(plan.functions),
    }


def _check(canary: float | None, shadow: float | None, strategy: str | None) -> None:
    if canary is not None and shadow is not None:
        raise WrongUsage("--canary and --shadow: a canary answers calls, a shadow answers none. Choose one.")
    for option, percent in (("--canary", canary), ("--shadow-percent", shadow)):
        if percent is not None and not 0 <= percent <= 100:
            raise WrongUsage(f"{option} {percent:g} is no share of the calls in percent: a number from 0 to 100.")
    if strategy is not None and strategy not in STRATEGIES:
        raise WrongUsage(f"--strategy {strategy}: there is no such strategy. There are: {', '.join(STRATEGIES)}.")


def _say(item: dict[str, Any], wanted: str = "") -> None:
    app, beside = item["app"], item["beside"]
    if beside is not None:
        _say_beside(item, beside)
    elif wanted:
        say(
            f"{app} is version {item['version']} already: its functions are what is deployed, so there is no {wanted} "
            "to make of them"
        )
    else:
        unchanged = " (unchanged: its functions are what is deployed)" if item["unchanged"] else ""
        if waits := item.get("goes_on", {}):
            some = "" if len(waits) == len(item["functions"]) else " for all of its functions"
            say(f"version {item['version']} of {app} has not taken over{some}{unchanged}")
        else:
            say(f"deployed {app}, version {item['version']}{unchanged}")
        say_goes_on(waits)
    say_ended(item.get("ended"))
    say_gone(item.get("gone", []))
    say_untried(item.get("untried", {}))
    for url in item["urls"].values():
        say(f"  {url}")
    if item["no_http"]:
        warn(
            f"the endpoints of {app} are not reached, because the server has no door for HTTP: {item['no_http']}\n"
            "Start it again with one: `stoker server stop`, then `stoker server start --http 127.0.0.1:7411`."
        )
    for told in of_own_environment(item.get("own_environment", []), count=len(item["functions"])):
        say(f"  {told}")
    if item["urls"]:
        url = next(iter(item["urls"].values()))
        say(f"  {url.partition('/' + app + '/')[0]}/{app}/docs")


def _say_beside(item: dict[str, Any], beside: dict[str, Any]) -> None:
    app, share = item["app"], f"{beside['percent']:g} %"
    again = ", which was there already" if item["unchanged"] else ""
    if beside["kind"] == "canary":
        say(f"deployed {app}, version {item['version']}, as a canary{again}: it answers {share} of the calls")
        say(f"  how it does:  stoker apps history {app}")
        say(f"  go on with:   stoker apps canary {app} PERCENT, or stoker apps promote {app}")
    else:
        say(f"deployed {app}, version {item['version']}, as a shadow{again}: {share} of the calls are mirrored to it")
        say(f"  how it does:  stoker apps shadow {app}")
        say(f"  go on with:   stoker apps promote {app}")
    say(f"  back out by:  stoker apps abort {app}")


def _rename(app: App, name: str) -> None:
    app.name = App(name).name  # checked there
    for function in app.functions.values():
        function.app_name = name

"""`stoker deploy`: apps that stay, for every program of this user."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stoker.cli.loading import by_name, load, split_target
from stoker.cli.screen import say, show_json
from stoker.cli.server_requests import persistent_session
from stoker.client.app import App
from stoker.errors import InvalidRequest


def deploy(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py", help="The file that defines the app.", show_default=False)
    ],
    name: Annotated[str | None, typer.Option(help="Deploy under this name instead of the app's own.")] = None,
    is_module: Annotated[bool, typer.Option("-m", help="The target is a module's name, not a file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Deploy an app to the server, as a new version: from then on any program may call its functions by name."""
    source, _ = split_target(target)
    persistent_session()  # no server: say so before the file is run
    program = load(source, is_module=is_module)
    if name is not None:
        if len(program.apps) > 1:
            raise InvalidRequest(
                f"{source} defines {len(program.apps)} apps: --name can be given to a single one only."
            )
        _rename(program.apps[0], name)
    done: list[dict[str, Any]] = [
        {
            "app": app.name,
            "version": app.deploy(),
            "functions": sorted(app.functions),
            "unchanged": not app.deployed_anew,
            "urls": app.urls,
        }
        for app in program.apps
    ]
    if as_json:
        show_json(done)
        return
    for item in done:
        unchanged = " (unchanged: its functions are what is deployed)" if item["unchanged"] else ""
        say(f"deployed {item['app']}, version {item['version']}{unchanged}")
        for url in item["urls"].values():
            say(f"  {url}")
        if item["urls"]:
            url = next(iter(item["urls"].values()))
            say(f"  {url.partition('/' + item['app'] + '/')[0]}/{item['app']}/docs")
        for function, found in program.functions.items() if len(done) == 1 else []:
            say(f"  {by_name(item['app'], function, found)}")


def _rename(app: App, name: str) -> None:
    app.name = App(name).name  # checked there
    for function in app.functions.values():
        function.app_name = name

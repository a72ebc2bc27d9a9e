"""Names that the server's own pages have, over HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stoker.errors import InvalidOption
from stoker.server.gateway.pages import openapi
from stoker.server.gateway.routing import endpoints_of
from stoker.server.reserved_names import check_names
from stoker.types import FunctionSpec, MethodSpec, WebSpec

from . import harness


def spec(name: str, **reached: Any) -> FunctionSpec:
    return replace(harness.spec(name), **reached)


ENDPOINT, SITE = WebSpec(["POST"]), WebSpec(["GET", "POST"], app="asgi")


@pytest.mark.parametrize("name", ["docs", "openapi.json"])
def test_a_page_of_an_app_is_no_function(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"/app/{name} is the app's own page"):
        check_names("app", [spec(name, web=ENDPOINT)])
    with pytest.raises(InvalidOption, match="Give it another name"):
        check_names("app", [spec(name, methods={"a": MethodSpec(web=SITE)})])
    check_names("app", [spec(name)])


@pytest.mark.parametrize("app", ["v1", "healthz", "metrics"])
def test_a_page_of_the_server_is_no_app(app: str) -> None:
    with pytest.raises(InvalidOption, match=f"/{app} is the server's own"):
        check_names(app, [spec("f", web=ENDPOINT)])
    check_names(app, [spec("f")])


def test_web_apps_are_no_paths_of_the_document_and_are_led_to() -> None:
    routes = [*endpoints_of(spec("site", web=SITE), "k").values(), *endpoints_of(spec("f", web=ENDPOINT), "k").values()]
    made = openapi("shop", routes)
    assert [*made["paths"]] == ["/shop/f"]
    assert made["x-stoker-web-apps"] == [{"path": "/shop/site/", "token": True}]

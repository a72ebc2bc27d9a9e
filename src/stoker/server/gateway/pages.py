"""What an app's page and its OpenAPI document say, put together from what each endpoint brought with its deployment."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from stoker.server.gateway.routing import Route

BEARER = {"type": "http", "scheme": "bearer", "description": "a token of `stoker tokens create`"}
OF_TOKENS = {
    "401": {"description": "The token is missing, not known, or expired."},
    "403": {"description": "The token is for something else."},
    "429": {"description": "The token may not call so often; `Retry-After` says when to try again."},
}
LAST_EVENT = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "the id of the last event of a stream that was cut: it goes on after it",
}


def openapi(app: str, routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of an app."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    version = max((route.spec.version for route in routes), default=0)
    for route in routes:
        if route.web.app:
            continue  # what it answers is its own to describe
        told = json.loads(route.web.openapi) if route.web.openapi else {"operation": {"responses": {}}, "schemas": {}}
        # Of two classes of one name that differ the second is put in under a name of its own.
        names = {
            name: _free(name, schema, schemas, route.path.replace("/", ".")) for name, schema in told["schemas"].items()
        }
        for name, schema in told["schemas"].items():
            schemas[names[name]] = _renamed(schema, names)
        operation = _renamed(told["operation"], names)
        operation["operationId"] = route.path.replace("/", ".")
        operation["tags"] = [app]
        if route.web.requires_token:
            operation["security"] = [{"token": []}]
            operation["responses"] |= OF_TOKENS
        if route.web.resume:
            operation["responses"]["410"] = {"description": "The stream is not kept, or no longer."}
            operation["parameters"] = [*operation.get("parameters", []), LAST_EVENT]
        for method in route.web.methods:
            paths.setdefault(f"/{app}/{route.path}", {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": app, "version": str(version)},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": BEARER}},
        "x-stoker-web-apps": [
            {"path": f"/{app}/{route.path}/", "token": route.web.requires_token} for route in routes if route.web.app
        ],
    }


def _free(name: str, schema: Any, taken: dict[str, Any], function: str) -> str:
    return name if taken.get(name, schema) == schema else f"{name}_of_{function}"


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        place = "#/components/schemas/"
        return {
            key: place + names.get(one[len(place) :], one[len(place) :])
            if key == "$ref" and isinstance(one, str) and one.startswith(place)
            else _renamed(one, names)
            for key, one in value.items()
        }
    return [_renamed(one, names) for one in value] if isinstance(value, list) else value


def docs(app: str) -> bytes:
    """Return the page of an app: it reads the document beside it, and takes nothing from elsewhere."""
    text = resources.files("stoker.server.gateway").joinpath("docs.html").read_text(encoding="utf-8")
    return text.replace("{{app}}", html.escape(app)).encode()

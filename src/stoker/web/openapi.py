"""What an endpoint's page says of it: an operation of OpenAPI 3.1, and the schemas that it names. Pure."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

from stoker.web.annotations import hints_of
from stoker.web.conversion import (
    LISTED,
    UNIONS,
    bare,
    is_array,
    is_pydantic,
    is_pydantics_own,
    is_struct,
    plain_base_of,
    understood,
)
from stoker.web.encoding import plain
from stoker.web.interface import BODILESS, Input, Interface, is_file, is_image
from stoker.web.things import File, Request, Response

Schema = dict[str, Any]

DECIMAL = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"

_SCALARS: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bytes: {"type": "string", "contentEncoding": "base64"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    time: {"type": "string", "format": "time"},
    timedelta: {
        "type": "number",
        "description": "seconds",
        "minimum": int(timedelta.min.total_seconds()),
        "maximum": timedelta.max.days * 86400,
    },
    Decimal: {"anyOf": [{"type": "number"}, {"type": "string", "pattern": DECIMAL}]},
    UUID: {"type": "string", "format": "uuid"},
    type(None): {"type": "null"},
    None: {"type": "null"},
}

ARRAY = "Array"  # the schema of all arrays: it names itself

ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message", "call_id"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "path": {"type": "string", "description": "where in the request, as in $.points[2].x"},
                "call_id": {"type": ["string", "null"], "description": "null where the request became no call"},
            },
        }
    },
}


class Schemas:
    """The schemas of one app's page, by name."""

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {}

    def of(self, annotation: Any) -> Schema:
        """Return the schema of an annotation; one of a class with fields is a reference."""
        with understood(annotation) as meaning:
            return self._of(meaning)

    def _of(self, annotation: Any) -> Schema:
        found = _SCALARS.get(annotation) if _is_hashable(annotation) else None
        if found is not None:
            return dict(found)
        origin, args = get_origin(annotation), get_args(annotation)
        if origin in UNIONS:
            return {"anyOf": [self.of(one) for one in args]}
        if origin is Literal:
            return {"enum": [_json(one) for one in args]}
        if origin is tuple:
            return self._tuple(args)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(args[1]) if len(args) == 2 else {}}
        if isinstance(origin, type) and (issubclass(origin, (Sequence, Set)) or origin in LISTED):
            return self._list(args[0] if args else Any)
        return self._of_class(annotation) if isinstance(annotation, type) else {}

    def _list(self, item: Any) -> Schema:
        return {"type": "array", "items": self.of(item)}  # of a set as well: what comes twice is taken once

    def _tuple(self, args: tuple[Any, ...]) -> Schema:
        if len(args) == 2 and args[1] is Ellipsis:
            return self._list(args[0])
        count = len(args)
        return {"type": "array", "prefixItems": [self.of(one) for one in args], "minItems": count, "maxItems": count}

    def _of_class(self, kind: Any) -> Schema:
        if issubclass(kind, Enum):
            return {"enum": [_json(one.value) for one in kind]}
        if is_array(kind):
            return self._array()
        if is_file(kind):
            return {"type": "string", "format": "binary"}
        if is_pydantic(kind) or is_struct(kind):
            return self._of_library(kind)
        if dataclasses.is_dataclass(kind):
            required = [one.name for one in dataclasses.fields(kind) if one.init and _has_no_default(one)]
            names = [one.name for one in dataclasses.fields(kind) if one.init]
            return self._named(kind, names, required)
        if typing.is_typeddict(kind):
            return self._named(kind, list(hints_of(kind)[0]), sorted(kind.__required_keys__))
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._named_tuple(kind)
        if issubclass(kind, (list, set, frozenset, tuple)):
            return {"type": "array", "items": {}}
        if (base := plain_base_of(kind)) is not None:
            return dict(_SCALARS[base])
        if issubclass(kind, dict):
            return {"type": "object"}
        return self._of_other(kind)

    def _of_other(self, kind: Any) -> Schema:
        if issubclass(kind, PurePath) or kind.__module__ == "ipaddress":
            return {"type": "string"}
        if is_pydantics_own(kind):
            try:
                schema = sys.modules["pydantic"].TypeAdapter(kind).json_schema()
                return {} if "$defs" in schema else dict(schema)
            except Exception:  # noqa: BLE001 - it is taken as it comes where pydantic cannot read it either
                return {}
        return {}

    def _named_tuple(self, kind: Any) -> Schema:
        """It comes in as a list or as an object, and goes out as a list, as the JSON of Python writes it."""
        required = [name for name in kind._fields if name not in kind._field_defaults]
        name = kind.__name__
        if name not in self.named:
            self._named(kind, list(kind._fields), required)
            by_name = self.named[name]
            listed = {
                "type": "array",
                "prefixItems": list(by_name["properties"].values()),
                "minItems": len(required),
                "maxItems": len(kind._fields),
            }
            self.named[name] = {"anyOf": [listed, by_name]}
        return _reference(name)

    def _array(self) -> Schema:
        if ARRAY not in self.named:
            items = {"type": "array", "items": _reference(ARRAY)}
            numbers = "an array: nested lists of numbers, all of one length"
            self.named[ARRAY] = {"anyOf": [{"type": ["number", "boolean"]}, items], "description": numbers}
        return _reference(ARRAY)

    def _named(self, kind: Any, names: Sequence[str], required: Sequence[str]) -> Schema:
        if kind.__name__ not in self.named:
            hints, _ = hints_of(kind)
            self.named[kind.__name__] = schema = {"type": "object", "additionalProperties": False}  # it may name itself
            schema["properties"] = {name: self.of(bare(hints.get(name, Any))) for name in names}
            if required:
                schema["required"] = list(required)
        return _reference(kind.__name__)

    def _of_library(self, kind: Any) -> Schema:
        """Have pydantic or msgspec describe its own."""
        place = "#/components/schemas/{}"
        if is_pydantic(kind):
            template = place.format("{model}")
            adapter = sys.modules["pydantic"].TypeAdapter(kind)
            schema = adapter.json_schema(ref_template=template)
            self.named.update(schema.pop("$defs", {}))
        else:
            (schema,), named = sys.modules["msgspec"].json.schema_components(
                [kind], ref_template=place.format("{name}")
            )
            self.named.update(named)
            return dict(schema)
        self.named[kind.__name__] = schema
        return _reference(kind.__name__)


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _has_no_default(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=plain))


def describe(function: Callable[..., Any], interface: Interface, *, method: str, streams: bool) -> str:
    """Return an endpoint's part of its app's page, as JSON: ``operation`` and ``schemas``."""
    schemas = Schemas()
    text = inspect.getdoc(function) or ""
    operation: Schema = {"summary": text.partition("\n")[0]} if text else {}
    if "\n" in text:
        operation["description"] = text
    query = [one for one in interface.inputs if one.source == "query"]
    if query:
        operation["parameters"] = [_parameter(one, schemas) for one in query]
    body = _body(interface, schemas) if method not in BODILESS else None
    if body is not None:
        operation["requestBody"] = body
    operation["responses"] = _responses(interface.returns, schemas, streams=streams)
    return json.dumps({"operation": operation, "schemas": schemas.named}, sort_keys=True)


def _with_default(one: Input, schema: Schema) -> Schema:
    if one.is_required:
        return schema
    try:
        return {**schema, "default": _json(one.default)} if one.default is not None else schema
    except TypeError:
        return schema


def _parameter(one: Input, schemas: Schemas) -> Schema:
    schema = _with_default(one, schemas.of(one.annotation))
    return {"name": one.name, "in": "query", "required": one.is_required, "schema": schema}


def _body(interface: Interface, schemas: Schemas) -> Schema | None:
    whole = next((one for one in interface.inputs if one.source == "body"), None)
    if whole is not None:
        return {
            "required": whole.is_required,
            "content": {"application/json": {"schema": schemas.of(whole.annotation)}},
        }
    fields = [one for one in interface.inputs if one.source in {"field", "file"}]
    if not fields:
        return None
    required = [one.name for one in fields if one.is_required]
    properties = {one.name: _with_default(one, schemas.of(one.annotation)) for one in fields}
    for one in fields:
        if one.source == "file" and one.is_many and one.is_required:
            properties[one.name]["minItems"] = 1  # a form says nothing of what it has none of
    form: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        form["required"] = required
    files = [one for one in fields if one.source == "file"]
    content: dict[str, Schema] = {}
    if not files:
        content["application/json"] = {"schema": form}
    else:
        content["multipart/form-data"] = {"schema": form}
    if len(files) == 1 and len(required) <= 1:
        kind = "image/*" if is_image(files[0].annotation) else "application/octet-stream"
        content[kind] = {"schema": {"type": "string", "format": "binary"}}
    return {"required": bool(required), "content": content}


def _event(item: Schema) -> Schema:
    """Return the schema of one event of a stream."""
    said = {"anyOf": [item, {"type": "null"}, ERROR]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": said}
    kinds = "without a name it has an item; `done` ends the stream; `error` does so with an error, as of other answers"
    return {
        "type": "object",
        "required": ["data"],
        "properties": {
            "id": {"type": "string", "description": "the call, and the number of the item in it"},
            "event": {"enum": ["message", "done", "error"], "description": kinds},
            "data": data,
        },
    }


def _responses(returns: Any, schemas: Schemas, *, streams: bool) -> Schema:
    if streams:
        item = get_args(returns)[0] if get_args(returns) else Any
        schema = schemas.of(item)
        content = {"text/event-stream": {"schema": _event(schema)}, "application/x-ndjson": {"schema": schema}}
    elif returns is bytes or is_image(returns):
        kind = "image/png" if is_image(returns) else "application/octet-stream"
        content = {kind: {"schema": {"type": "string", "format": "binary"}}}
    elif returns in {Response, File, Request} if _is_hashable(returns) else False:
        content = {"*/*": {"schema": {}}}
    else:
        content = {"application/json": {"schema": schemas.of(returns)}}
    own = returns is Response
    error = {"content": {"application/json": {"schema": ERROR}}}
    return {
        "200": {"description": "What the function returned.", "content": content},
        "400": {"description": "The request cannot be read.", **error},
        "413": {"description": "The body is too big.", **error},
        "415": {"description": "The body is of another media type than is taken.", **error},
        "422": {"description": "An argument is missing, or not what is expected; `path` says which.", **error},
        "500": {"description": "The function raised an exception.", **error},
        "503": {"description": "It cannot be answered now; `Retry-After` says when to try again.", **error},
        "504": {"description": "It was not answered in time.", **error},
        **({"default": {"description": "What the function returned, with a status of its own."}} if own else {}),
    }

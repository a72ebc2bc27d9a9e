"""Reading the parameters of requests: what comes from outside is checked for its type."""

from __future__ import annotations

from typing import Any

import msgspec

from stoker.errors import InvalidRequest

Params = dict[str, Any]


def get(params: Params, name: str, kind: Any, default: Any = msgspec.UNSET) -> Any:
    """Return a parameter.

    Raises:
        InvalidRequest: it is missing, and there is no default, or it is of another type.
    """
    value = params.get(name, default)
    if value is msgspec.UNSET:
        raise InvalidRequest(f"The request came without its parameter {name!r}.")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The request's parameter {name!r} is malformed: {error}.") from None

"""What cannot be imported where it arrives (lambdas, local classes, a notebook's definitions), by cloudpickle.

cloudpickle costs an import and a Python call for each object, so it is used only where plain pickle has failed.
"""

from __future__ import annotations

import copyreg
import sys
import types
from typing import Any

import cloudpickle

from stoker.protocol.numpy_codec import Table

_CLOUDPICKLE_TABLE: Any = cloudpickle.Pickler.dispatch_table


class _ByValueTable(dict[type, Any]):
    def __init__(self, own: Table) -> None:
        super().__init__()
        self._own = own

    def __missing__(self, kind: type) -> Any:
        return self._own[kind] if kind in self._own else _CLOUDPICKLE_TABLE[kind]


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler with this codec's own reducers.

    With ``main_by_value`` unset, what can be looked up in ``__main__`` goes by its name: the worker answers to it.
    """

    def __init__(self, sink: Any, *, buffer_callback: Any, table: Table, main_by_value: bool) -> None:
        super().__init__(sink, protocol=5, buffer_callback=buffer_callback)
        self.dispatch_table = _ByValueTable(table)
        self._main_by_value = main_by_value

    def reducer_override(self, obj: Any) -> Any:
        if not self._main_by_value and isinstance(obj, (type, types.FunctionType)) and _is_named_in_main(obj):
            return obj.__qualname__
        return super().reducer_override(obj)


def _is_named_in_main(obj: Any) -> bool:
    if obj.__module__ != "__main__":
        return False
    found: Any = sys.modules["__main__"]
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def reduce_registered(obj: Any) -> Any:
    """Reduce an object as pickle would, registered reducers included."""
    reducer = copyreg.dispatch_table.get(type(obj))
    return reducer(obj) if reducer is not None else obj.__reduce_ex__(5)

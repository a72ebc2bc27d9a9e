"""Cuts the pickle of a tuple into pickles of its items, each of which loads on its own.

For the call whose third argument cannot be loaded here: the others still can. A pickle is a program for a stack
machine; the one of a tuple ends with the opcode that builds it, and before that each item's opcodes lie in one run.
What a run takes from the memo of an earlier one is brought along: names and strings by repeating the opcodes that made
them, anything that has an identity by running the earlier item first and dropping it.

Reference: CPython's ``Lib/pickletools.py``, which documents each opcode's effect on the stack.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stoker.errors import ProtocolError

_IDENTITY_FREE = frozenset(
    {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "STACK_GLOBAL"}
)
_BUILDERS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
_LOCAL_OPS = frozenset({"PROTO", "FRAME", "STOP"})


class _Op(NamedTuple):
    name: str
    arg: Any
    raw: bytes
    start: int  # index of the first op of the value that is on top of the stack after this one
    memo: int  # how many memo entries there were before it
    buffers: int  # how many out-of-band buffers had been taken before it


class ItemPickle(NamedTuple):
    """The pickle of one item, and which of the whole pickle's buffers it takes, in order."""

    stream: bytes
    buffers: list[int]


@dataclass
class _Machine:
    """The stack machine, without values: where on the stack each value began."""

    ops: list[_Op] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memoized: list[tuple[int, int]] = field(default_factory=list)  # entry -> (first op, last op) of its value

    def step(self, opcode: pickletools.OpcodeInfo, arg: Any, raw: bytes) -> None:
        at = len(self.ops)
        start = self._pop(opcode, at)
        memo = len(self.memoized)
        taken = self.ops[-1].buffers + (self.ops[-1].name == "NEXT_BUFFER") if self.ops else 0
        if opcode.name == "MEMOIZE":
            start = self.stack[-1]
            self.memoized.append((start, at - 1))
        elif opcode.name == "MARK":
            self.marks.append(len(self.stack))
            self.stack.append(at)
        else:
            self.stack.extend([start] * len(opcode.stack_after))
        self.ops.append(_Op(opcode.name, arg, raw, start, memo, taken))

    def _pop(self, opcode: pickletools.OpcodeInfo, at: int) -> int:
        if opcode.name == "MEMOIZE":
            return at
        start = at
        before = list(opcode.stack_before)
        if pickletools.markobject in before:
            mark = self.marks.pop()
            start = min([start, *self.stack[mark:]])
            del self.stack[mark:]
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            start = min(start, self.stack.pop())
        return start


def _run(stream: bytes) -> tuple[_Machine, list[int]]:
    """Return the machine after the whole pickle, and the index of each item's first op, with the end after them."""
    machine = _Machine()
    items: list[int] = []
    found = list(pickletools.genops(stream))
    ends = [position or 0 for _, _, position in found[1:]] + [len(stream)]
    last = max((i for i, (op, _, _) in enumerate(found) if op.name in _BUILDERS), default=-1)
    for i, ((opcode, arg, position), end) in enumerate(zip(found, ends, strict=True)):
        if i == last:
            count = _BUILDERS[opcode.name]
            items = machine.stack[machine.marks[-1] + 1 :] if count is None else machine.stack[-count:]
            items = [*items, i]
        machine.step(opcode, arg, stream[position or 0 : end])
    if [op.name for op in machine.ops[last + 1 :]] not in (["STOP"], ["MEMOIZE", "STOP"]):
        raise ValueError("the pickle does not end with a tuple")
    return machine, items


def check(stream: bytes) -> None:
    """Check that a pickle is whole: that each of its opcodes is known, complete, and finds what it takes.

    Raises:
        ProtocolError: it is not.
    """
    machine = _Machine()
    end = 0
    try:
        for opcode, arg, position in pickletools.genops(stream):
            machine.step(opcode, arg, b"")
            end = (position or 0) + 1
    except (ValueError, IndexError, OverflowError, MemoryError, struct.error) as error:
        raise ProtocolError(f"These bytes are no whole pickle: {error}.") from error
    if end != len(stream) or machine.stack:
        raise ProtocolError(f"These bytes are no pickle of one object: it ends at {end} of {len(stream)} bytes.")


def slice_items(stream: bytes) -> list[ItemPickle]:
    """Return a pickle for each item of the tuple that ``stream`` is the pickle of.

    Raises:
        ProtocolError: it is no pickle, or not one of a tuple.
    """
    try:
        machine, items = _run(stream)
        return [_Slicer(machine, items).cut(i) for i in range(len(items) - 1)]
    except (ValueError, IndexError, OverflowError, MemoryError, struct.error) as error:
        raise ProtocolError(f"These bytes are no pickle of arguments: {error}.") from error


class _Slicer:
    """Writes one item's pickle."""

    def __init__(self, machine: _Machine, items: list[int]) -> None:
        self._machine = machine
        self._items = items
        self._out = [b"\x80\x05"]
        self._buffers: list[int] = []

    def cut(self, item: int) -> ItemPickle:
        first = self._first_needed(item)
        base = self._memo_at(self._items[first])
        for entry in sorted(self._references(self._items[first], self._items[item + 1])):
            if entry < base:
                self._repeat(entry)
                self._out.append(b"r" + struct.pack("<I", entry) + b"0")
        for i in range(first, item + 1):
            self._emit(self._items[i], self._items[i + 1])
            self._out.append(b"." if i == item else b"0")
        return ItemPickle(b"".join(self._out), self._buffers)

    def _memo_at(self, op: int) -> int:
        return self._machine.ops[op].memo

    def _references(self, start: int, end: int) -> set[int]:
        return {op.arg for op in self._machine.ops[start:end] if op.name in ("BINGET", "LONG_BINGET")}

    def _first_needed(self, item: int) -> int:
        """Return the earliest item that has to run before this one, for what they share."""
        first = item
        while True:
            base = self._memo_at(self._items[first])
            shared = [e for e in self._references(self._items[first], self._items[item + 1]) if e < base]
            bound = [e for e in shared if not self._is_identity_free(e)]
            if not bound:
                return first
            origin = self._machine.memoized[min(bound)][0]
            first = max(i for i, start in enumerate(self._items[:-1]) if start <= origin)

    def _is_identity_free(self, entry: int) -> bool:
        return self._machine.ops[self._machine.memoized[entry][1]].name in _IDENTITY_FREE

    def _repeat(self, entry: int) -> None:
        """Write the opcodes that made a name or a string once more, and those of its own parts."""
        start, end = self._machine.memoized[entry]
        for op in self._machine.ops[start : end + 1]:
            if op.name in ("BINGET", "LONG_BINGET"):
                self._repeat(op.arg)
            elif op.name not in _LOCAL_OPS and op.name != "MEMOIZE":
                self._out.append(op.raw)

    def _emit(self, start: int, end: int) -> None:
        for op in self._machine.ops[start:end]:
            if op.name == "MEMOIZE":
                self._out.append(b"r" + struct.pack("<I", op.memo))  # an explicit index: earlier entries are missing
            elif op.name not in _LOCAL_OPS:
                self._out.append(op.raw)
            if op.name == "NEXT_BUFFER":
                self._buffers.append(op.buffers)


def global_names(stream: bytes) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of the globals that a whole pickle names, in order; some may come twice."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    for opcode, value, _ in pickletools.genops(stream):
        arg: Any = value
        if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE"):
            strings.append(arg)
        elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
            yield strings[-2], strings[-1]
            strings.append("")
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif opcode.name == "LONG_BINPUT":
            memo[arg] = strings[-1] if strings else ""
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            strings.append(memo.get(arg, ""))


_FIRST_OF = {"EMPTY_LIST": "list", "EMPTY_DICT": "dict", "EMPTY_SET": "set"}
_FRAMING = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"}


def container_name(stream: bytes) -> str:
    """Return which built-in container a whole pickle is of, "" where it is something else.

    Anything but a tuple begins with what it is; a tuple ends with it.
    """
    names = [opcode.name for opcode, _, _ in pickletools.genops(stream) if opcode.name not in _FRAMING]
    if not names:
        return ""
    return "tuple" if names[-1].startswith("TUPLE") else _FIRST_OF.get(names[0], "")

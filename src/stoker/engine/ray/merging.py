"""The answers of several nodes to one question, made one."""

from __future__ import annotations

import logging
from typing import Any

from stoker.errors import StokerError

log = logging.getLogger("stoker.engine")


def merged(verb: str, answers: dict[str, Any], params: dict[str, Any]) -> Any:
    """Return one answer for those of the nodes, of which some may be errors.

    Lists are put together, lines of logs in the order of their time; a lock is whoever's has it; an inventory is told
    of each node.

    Raises:
        StokerError: no node had an answer.
    """
    good = {node: answer for node, answer in answers.items() if not isinstance(answer, BaseException)}
    bad = {node: error for node, error in answers.items() if isinstance(error, BaseException)}
    for error in bad.values():
        if not isinstance(error, StokerError):
            raise error
    if not good:
        raise next(iter(bad.values()))
    if verb != "image_lock":
        for node, error in bad.items():
            log.warning("node %s did not answer %s: %s", node, verb, error)
    if verb == "inventory":
        return {"nodes": good}
    if verb == "image_lock":
        return next(iter(good.values()))
    found = [{**row, "node": node} for node, rows in good.items() for row in rows]
    if verb == "logs":
        found.sort(key=lambda line: float(line["time"]))
        return found[-int(params.get("tail", len(found)) or len(found)) :]
    return found

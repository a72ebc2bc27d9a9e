"""What a shadow has answered beside what the current version has: counts, latencies and some examples."""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SAMPLES_MAX = 1000  # latencies kept of each side: the latest
EXAMPLES_MAX = 10  # differences kept: the latest
EXAMPLE_CHARS = 200  # of each side's answer in an example
JSON_BYTES_MAX = 64 << 10  # of an answer that is compared as JSON; bigger ones are compared by their bytes


class Answer(NamedTuple):
    """How one side ended. ``said``: a status, ``value``, or an error's type.

    ``digest`` tells a body apart whose bytes are not kept. ``seconds``: from when the call came to its end here.
    """

    said: str
    is_error: bool
    body: bytes = b""
    digest: str = ""
    is_json: bool = False
    seconds: float = 0.0
    error: str = ""


def alike(one: Answer, other: Answer) -> bool:
    """Tell whether two answers say the same: the same bytes, or the same JSON whatever the order of its fields.

    Of errors, whether they are of one type: their messages name calls.
    """
    if (one.said, one.is_error, one.is_json) != (other.said, other.is_error, other.is_json):
        return False
    if one.error or other.error or (one.body, one.digest) == (other.body, other.digest):
        return True
    if not one.is_json or one.digest or other.digest or max(len(one.body), len(other.body)) > JSON_BYTES_MAX:
        return False
    try:
        return _canonical(one.body) == _canonical(other.body)
    except (ValueError, RecursionError):
        return False


def _canonical(body: bytes) -> str:
    return json.dumps(json.loads(body, parse_float=_number), sort_keys=True)


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number  # JSON knows one kind: 1.0 is 1


def percentile(samples: list[float], share: float) -> float | None:
    """Return the sample below which this share of them lies; None without any."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


@dataclass(slots=True)
class Comparison:
    """See the module. ``shed`` counts calls that were not mirrored, or dropped, by why."""

    since: float
    compared: int = 0
    equal: int = 0
    different: int = 0
    failed_in_shadow: int = 0
    failed_in_current: int = 0
    shed: Counter[str] = field(default_factory=Counter)
    examples: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=EXAMPLES_MAX))
    current_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))
    shadow_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))

    def add(self, call_id: str, label: str, current: Answer, shadow: Answer) -> None:
        """Take in one call that both have ended."""
        self.compared += 1
        self.current_seconds.append(current.seconds)
        self.shadow_seconds.append(shadow.seconds)
        if shadow.is_error and not current.is_error:
            self.failed_in_shadow += 1
        elif current.is_error and not shadow.is_error:
            self.failed_in_current += 1
        elif alike(current, shadow):
            self.equal += 1
            return
        else:
            self.different += 1
        sides = {"current": _shown(current), "shadow": _shown(shadow)}
        self.examples.append({"call_id": call_id, "function": label, **sides})

    def report(self) -> dict[str, Any]:
        """Return everything, ready for JSON; seconds are None where there are none."""
        sides = {"current": [*self.current_seconds], "shadow": [*self.shadow_seconds]}
        return {
            "since": self.since,
            "compared": self.compared,
            "equal": self.equal,
            "different": self.different,
            "failed_in_shadow": self.failed_in_shadow,
            "failed_in_current": self.failed_in_current,
            "shed": dict(self.shed),
            "seconds": {
                side: {"p50": percentile(samples, 0.5), "p99": percentile(samples, 0.99)}
                for side, samples in sides.items()
            },
            "examples": [*self.examples],
        }


def _shown(answer: Answer) -> str:
    text = answer.error or answer.body.decode("utf-8", "replace")
    is_text = answer.is_json or answer.error or (text.isprintable() and "\ufffd" not in text)
    text = " ".join(text.split()) if is_text else f"{len(answer.body)} bytes"
    if answer.digest:
        text = f"a body with the digest {answer.digest[:12]}"
    return f"{answer.said}: {text[:EXAMPLE_CHARS]}{'…' if len(text) > EXAMPLE_CHARS else ''}"

"""When callbacks are tried, how many at once, and where they may go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.callback_targets import Allowed, Target, parse_target
from stoker.core.callbacks import ATTEMPTS_MAX, LONGEST_SECONDS, Line, Verdict, delay, judge
from stoker.errors import InvalidOption, InvalidRequest


def test_waits_grow_to_some_hours_and_end_after_about_a_day() -> None:
    waits = [delay(n, 0.0) for n in range(1, ATTEMPTS_MAX)]
    assert waits[:4] == [1.0, 4.0, 16.0, 64.0] and waits[-1] == LONGEST_SECONDS
    assert delay(ATTEMPTS_MAX, 0.0) is None
    assert 24 * 3600 < sum(wait or 0.0 for wait in waits) < 36 * 3600


@given(st.integers(1, ATTEMPTS_MAX - 1), st.floats(0.0, 1.0))
def test_jitter_takes_up_to_a_half(attempts: int, jitter: float) -> None:
    whole, found = delay(attempts, 0.0), delay(attempts, jitter)
    assert whole is not None and found is not None and whole / 2 <= found <= whole


@pytest.mark.parametrize(
    ("status", "attempts", "retry_after", "verdict"),
    [
        (204, 1, 0.0, Verdict(True)),
        (204, ATTEMPTS_MAX, 0.0, Verdict(True)),
        (0, 1, 0.0, Verdict(False, 1.0)),
        (302, 2, 0.0, Verdict(False, 4.0)),
        (500, ATTEMPTS_MAX, 0.0, Verdict(False)),
        (410, 1, 0.0, Verdict(False)),
        (503, 1, 90.0, Verdict(False, 90.0)),
        (429, 1, 1e9, Verdict(False, LONGEST_SECONDS)),
    ],
)
def test_what_follows_from_an_answer(status: int, attempts: int, retry_after: float, verdict: Verdict) -> None:
    assert judge(status, attempts=attempts, jitter=0.0, retry_after=retry_after) == verdict


def test_a_host_that_hangs_leaves_room_for_others() -> None:
    line = Line(at_once=3, of_host=2)
    for n in range(4):
        line.add(f"slow{n}", "slow", 10.0)
    line.add("other", "other", 11.0)
    assert line.take(9.0) == [] and line.next_at() == 10.0
    assert line.take(10.0) == ["slow0", "slow1"]
    assert line.take(11.0) == ["other"] and line.next_at() is None
    line.ended("slow1")
    assert line.take(11.0) == ["slow2"]
    line.ended("other")
    line.ended("slow0")
    assert line.take(11.0) == ["slow3"]


def test_a_new_plan_takes_the_place_of_the_one_before() -> None:
    line = Line(at_once=1, of_host=1)
    line.add("a", "host", 100.0)
    line.add("a", "host", 5.0)
    assert line.take(5.0) == ["a"] and line.is_tried("a")
    line.add("b", "host", 6.0)
    line.ended("a")
    assert line.take(200.0) == ["b"] and not line.is_tried("a")


@given(
    st.lists(st.tuples(st.sampled_from(["add", "take", "end"]), st.integers(0, 30), st.sampled_from("abc"))),
)
def test_bounds_are_kept_and_nothing_is_forgotten(steps: list[tuple[str, int, str]]) -> None:
    line, now, added, going, done = Line(at_once=4, of_host=2), 0.0, 0, dict[str, str](), 0

    def take() -> None:
        for name in line.take(now):
            going[name] = name[-1]

    for what, n, host in steps:
        now += n
        if what == "add":
            added += 1
            line.add(f"{added}{host}", host, now + n)
        elif what == "take":
            take()
        elif going:
            one = sorted(going)[n % len(going)]
            del going[one]
            line.ended(one)
            done += 1
        assert len(going) <= 4 and all(list(going.values()).count(one) <= 2 for one in "abc")
    now += 100.0
    while done < added:
        take()
        assert going, "what is due is tried"
        for one in list(going):
            del going[one]
            line.ended(one)
            done += 1


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.org", Target("https", "example.org", 443, "/")),
        ("http://Example.org.:8080/a?b=c#d", Target("http", "example.org", 8080, "/a?b=c")),
        ("http://[::1]:80/", Target("http", "::1", 80, "/")),
    ],
)
def test_urls(url: str, target: Target) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org/done",
        "ftp://example.org",
        "file:///etc/passwd",
        "https://",
        "https://me:secret@example.org",
        "https://example.org:99999",
        "https://exa mple.org",
        "https://example.org/\r\nX-A: b",
        "https://exämple.org",
        "https://example.org/" + "x" * 3000,
    ],
)
def test_what_is_no_url_for_a_callback(url: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_target(url)


INSIDE = [
    "127.0.0.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1%eth0",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "nonsense",
]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside_are_refused_unless_they_are_listed(address: str) -> None:
    assert not Allowed().permits(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_public_addresses_are_allowed_unless_that_is_off(address: str) -> None:
    assert Allowed().permits(address)
    assert not Allowed.parse("10.0.0.0/8").permits(address)


def test_networks_and_hosts_of_ones_own() -> None:
    allowed = Allowed.parse("public, 10.0.0.0/8, fd00::/8, 192.168.1.7, CI.lan, *.corp.example")
    assert all(allowed.permits(one) for one in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "192.168.1.7", "8.8.8.8"))
    assert not any(allowed.permits(one) for one in ("192.168.1.8", "127.0.0.1", "169.254.169.254"))
    assert allowed.names("ci.lan") and allowed.names("A.B.corp.example")
    assert not any(
        allowed.names(one) for one in ("corp.example", "xcorp.example", "ci.lan.evil.example", ".corp.example")
    )
    assert Allowed.parse("off").is_off and not allowed.is_off


@pytest.mark.parametrize(
    "text", ["", ",", "off, public", "10.0.0.1/8", "10.0.0", "http://ci.lan", "ci.lan:80", "*", "a b"]
)
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(InvalidOption, match="STOKER_CALLBACKS"):
        Allowed.parse(text)

from __future__ import annotations

import pytest

from stoker.errors import InvalidOption
from stoker.transport.addresses import Address, is_loopback, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("stoker://gpu-1:7411", Address("gpu-1", 7411)),
        ("stoker://127.0.0.1:7411/", Address("127.0.0.1", 7411)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("stoker://[fd00::2]:65535", Address("fd00::2", 65535)),
        ("[::]:1", Address("::", 1)),
    ],
)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    assert parse_address(text, option="--listen") == address
    assert parse_address(str(address), option="--listen") == address


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":7411", "host:port", "host:65536", "host:-1", "host:\uff17", "fd00::2:7411", "[fd00::2]",
     "a@b:1", "http://host:80", "tcp://host:80", "host:80/path", "two words:80", "[host:80"],
)  # fmt: skip
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(InvalidOption, match=r"--listen=.* is no address. Write stoker://HOST:PORT"):
        parse_address(text, option="--listen")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_what_cannot_be_reached_from_elsewhere(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback

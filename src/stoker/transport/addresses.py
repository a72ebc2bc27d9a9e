"""Addresses of servers on a network: ``stoker://HOST:PORT``."""

from __future__ import annotations

from typing import NamedTuple

from stoker.errors import InvalidOption

SCHEME = "stoker://"
PORT_MAX = 65535


class Address(NamedTuple):
    """Where a server listens; ``str`` gives it as programs are told it."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}{host}:{self.port}"


def parse_address(text: str, *, option: str, example: str = f"{SCHEME}127.0.0.1:7411") -> Address:
    """Return the address in ``stoker://HOST:PORT``, or in ``HOST:PORT``. An IPv6 address stands in brackets.

    ``example`` is what is shown to whoever wrote none.

    Raises:
        InvalidOption: it is none.
    """
    place = text[len(SCHEME) :] if text.startswith(SCHEME) else text
    host, colon, port = place.rstrip("/").rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    is_port = port.isascii() and port.isdigit() and int(port) <= PORT_MAX
    if not (host and colon and is_port) or (":" in host) != bracketed or any(c in host for c in "/@[] "):
        form = f"{SCHEME}HOST:PORT" if example.startswith(SCHEME) else "HOST:PORT"
        raise InvalidOption(f"{option}={text!r} is no address. Write {form}, as {example}.")
    return Address(host, int(port))


def is_loopback(host: str) -> bool:
    """Tell whether a numeric address cannot be reached from another machine."""
    from ipaddress import IPv6Address, ip_address  # only who uses the network needs it

    found = ip_address(host.partition("%")[0])
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped.is_loopback
    return found.is_loopback

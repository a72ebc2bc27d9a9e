"""Where callbacks may go: a server inside a network must not be made to ask what only it can reach.

Whoever may call an endpoint names an address that this server then asks: of a cloud's metadata service, say, or of a
database's console on loopback. So addresses that are not public are refused unless the server's owner has listed them.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from stoker.errors import InvalidOption, InvalidRequest

URL_MAX_CHARACTERS = 2048
PUBLIC = "public"
OFF = "off"
PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Target:
    """A callback's URL, taken apart. ``path`` has the query with it."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Return what a Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def parse_target(url: str) -> Target:
    """Take a URL apart.

    Raises:
        InvalidRequest: it is none that a callback could go to.
    """
    if len(url) > URL_MAX_CHARACTERS or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidRequest(f"A callback's URL has at most {URL_MAX_CHARACTERS} printable characters of ASCII.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidRequest(f"{url!r:.100} is no URL.") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise InvalidRequest(f"{url!r:.100} is no URL of http or https, as https://example.org/done.")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest("A callback's URL has no user or password in it: verify its signature instead.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname.rstrip("."), PORTS[parts.scheme] if port is None else port, path)


@dataclass(frozen=True)
class Allowed:
    """What a server's owner allows: ``public`` addresses, networks, and hosts whatever their addresses are."""

    public: bool = True
    networks: tuple[IpNetwork, ...] = ()
    hosts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, *, option: str = "STOKER_CALLBACKS") -> Allowed:
        """Read a list with commas: ``public``, networks as ``10.0.0.0/8``, hosts as ``ci.lan`` or ``*.lan``; ``off``.

        Raises:
            InvalidOption: something in it is none of these.
        """
        words = [word.strip().lower() for word in text.split(",") if word.strip()]
        networks: list[IpNetwork] = []
        hosts: list[str] = []
        for word in words:
            if word in {PUBLIC, OFF}:
                continue
            try:
                networks.append(ipaddress.ip_network(word))
                continue
            except ValueError as error:
                if "/" not in word and _NAME.fullmatch(word) and not word.replace(".", "").isdigit():
                    hosts.append(word)
                    continue
                reason = f": {error}" if "/" in word else ""
            raise InvalidOption(
                f"{option}: {word!r} is no host or network{reason}. Write `public`, networks and hosts with commas "
                "between them, as in public,10.0.0.0/8,ci.lan,*.corp.example, or `off`."
            )
        if not words or (OFF in words and len(words) > 1):
            raise InvalidOption(f"{option}={text!r}: `off` stands alone, and something has to stand there.")
        return cls(PUBLIC in words, tuple(networks), tuple(hosts))

    @property
    def is_off(self) -> bool:
        return not (self.public or self.networks or self.hosts)

    def names(self, host: str) -> bool:
        """Tell whether a host is listed by its name: then its addresses may be any."""
        host = host.lower()
        return any(
            host == one or (one.startswith("*.") and host.endswith(one[1:]) and len(host) > len(one) - 1)
            for one in self.hosts
        )

    def permits(self, address: str) -> bool:
        """Tell whether a callback may go to an address that no listed name stands for."""
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        for one in (found, *_within(found)):
            if any(one.version == network.version and one in network for network in self.networks):
                return True
        return self.public and all(one.is_global and not one.is_multicast for one in (found, *_within(found)))


def _within(address: IpAddress) -> list[IpAddress]:
    """Return the IPv4 address that an IPv6 one leads to: what counts is where the connection ends."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    found: list[IpAddress] = [one for one in (address.ipv4_mapped, address.sixtofour) if one is not None]
    if address.teredo is not None:
        found.append(address.teredo[1])
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found

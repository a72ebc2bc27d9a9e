"""The URL of a store in PostgreSQL: what it says, and how it is shown to people, without its password."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from stoker.errors import InvalidOption

SCHEMES = ("postgresql", "postgres")
DEFAULT_SCHEMA = "stoker"
HIDDEN = "***"

_SECRETS = frozenset({"password", "sslpassword"})
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_EXAMPLE = "postgresql://user:password@host/database?schema=stoker"


@dataclass(frozen=True)
class Address:
    """Where a store is. ``parameters`` are libpq's own, by its names; what they lack it takes from its own places."""

    schema: str
    parameters: dict[str, str] = field(repr=False)

    @property
    def shown(self) -> str:
        """Return the URL as it may be shown."""
        known = dict(self.parameters)
        user, password = known.pop("user", ""), known.pop("password", "")
        host, port, database = (known.pop(name, "") for name in ("host", "port", "dbname"))
        login = quote(user, safe="") + (f":{HIDDEN}" if password else "") + "@" if user or password else ""
        if "/" in host:  # the directory of a Unix socket
            known = {"host": host, **known}
            host = ""
        if ":" in host:
            host = f"[{host}]"
        where = host + (f":{port}" if port else "")
        rest = {"schema": self.schema, **{name: HIDDEN if name in _SECRETS else known[name] for name in known}}
        query = "&".join(f"{name}={quote(value, safe='/:*')}" for name, value in rest.items())
        return f"postgresql://{login}{where}/{quote(database, safe='')}?{query}"

    def without_secrets(self, text: str) -> str:
        """Return a text of the driver's with every password of this address taken out."""
        for name in _SECRETS & self.parameters.keys():
            if secret := self.parameters[name]:
                text = text.replace(secret, HIDDEN)
        return text


def parse(url: str, *, option: str) -> Address:
    """Read a URL; ``option`` is what the user gave it by.

    Raises:
        InvalidOption: it is no URL of a PostgreSQL database. The message shows nothing that may be a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidOption(
            f"{option} is not the URL of a PostgreSQL database. Write it as {_EXAMPLE}; special characters in the "
            "user's name and the password as %XX."
        ) from None
    if parts.scheme not in SCHEMES or not url.startswith(f"{parts.scheme}://") or parts.fragment:
        found = f"begins with {parts.scheme}:" if parts.scheme and parts.scheme not in SCHEMES else "cannot be read"
        raise InvalidOption(
            f"{option} {found}, and is not the URL of a PostgreSQL database. Write it as {_EXAMPLE}; special "
            "characters in the user's name and the password as %XX. Without it the store is a file of Stoker's own."
        )
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = query.pop("schema", DEFAULT_SCHEMA)
    if not _SCHEMA.fullmatch(schema):
        raise InvalidOption(
            f"{option}: the schema {schema!r} is not a plain name. Use lower-case letters, digits and _, 63 at most."
        )
    given = {
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "host": unquote(host),
        "port": str(port or ""),
        "dbname": unquote(parts.path.removeprefix("/")),
    }
    return Address(schema, {**{name: value for name, value in given.items() if value}, **query})


def shown(url: str) -> str:
    """Return a URL as it may be shown, whatever it is."""
    try:
        return parse(url, option="store").shown
    except InvalidOption:
        return HIDDEN

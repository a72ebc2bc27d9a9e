"""URLs of stores in PostgreSQL: what they say, and that nothing shows their password."""

from __future__ import annotations

import pytest

from stoker.errors import InvalidOption
from stoker.store.postgres.address import DEFAULT_SCHEMA, parse, shown


def test_a_url_says_where_the_store_is() -> None:
    address = parse("postgresql://me:p%40ss@db.example:5433/calls?schema=team_a&sslmode=require", option="store")
    assert address.schema == "team_a"
    assert address.parameters == {
        "user": "me",
        "password": "p@ss",
        "host": "db.example",
        "port": "5433",
        "dbname": "calls",
        "sslmode": "require",
    }


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://host/db", f"postgresql://host/db?schema={DEFAULT_SCHEMA}"),
        ("postgresql://me:secret@host/db?schema=s", "postgresql://me:***@host/db?schema=s"),
        ("postgresql://me@[::1]:99/db?schema=s", "postgresql://me@[::1]:99/db?schema=s"),
        ("postgresql://me@/db?host=/var/run/pg&schema=s", "postgresql://me@/db?schema=s&host=/var/run/pg"),
        ("postgresql://h/db?user=me&password=secret&schema=s", "postgresql://me:***@h/db?schema=s"),
        ("postgresql://h/db?sslpassword=secret&schema=s", "postgresql://h/db?schema=s&sslpassword=***"),
        ("mysql://me:secret@host/db", "***"),
    ],
)
def test_it_is_shown_without_its_password(url: str, expected: str) -> None:
    assert shown(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:secret@host/db",
        "secret",
        "postgresql:secret",
        "/var/secret.db",
        "postgresql://me:sec#ret@host/db",
        "postgresql://me:sec/ret@host/db",
        "postgresql://me:secret@host:port/db",
        "postgresql://me:[secret@host/db",
    ],
)
def test_what_is_no_such_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(
        InvalidOption, match=r"--store.*not the URL of a PostgreSQL database.*postgresql://user"
    ) as found:
        parse(url, option="--store")
    assert not any(secret in str(found.value) for secret in ("secret", "sec#ret", "ret@"))


@pytest.mark.parametrize("schema", ["", "Team", "a b", 'a"b', "a;drop", "x" * 64, "1a"])
def test_a_schemas_name_is_a_plain_word(schema: str) -> None:
    with pytest.raises(InvalidOption, match="not a plain name"):
        parse(f"postgresql://host/db?schema={schema}", option="--store")


def test_nothing_shows_what_an_address_holds() -> None:
    address = parse("postgresql://me:secret@host/db", option="store")
    assert "secret" not in repr(address)
    assert address.without_secrets("refused: secret") == "refused: ***"

"""PostgreSQL for the tests of its store: one server a run, a schema a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stoker.store.postgres.address import Address, parse
from tests.postgres import PostgresServer, drop_schema, fresh_schema, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with running() as server:
        yield server


@pytest.fixture
def schema(postgres: PostgresServer) -> Iterator[str]:
    name = fresh_schema()
    yield name
    if postgres.process is not None and postgres.process.poll() is None:
        drop_schema(postgres, name)


@pytest.fixture
def address(postgres: PostgresServer, schema: str) -> Address:
    return parse(postgres.url(schema), option="store")

"""Where a test's store in PostgreSQL is."""

from __future__ import annotations

import pytest

from stoker.store.postgres.address import Address, parse
from tests.postgres import PostgresServer


@pytest.fixture
def address(postgres: PostgresServer, schema: str) -> Address:
    return parse(postgres.url(schema), option="store")

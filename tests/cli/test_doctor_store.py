"""The doctor's line on the store."""

from __future__ import annotations

import importlib.util

import pytest

from stoker.cli.doctor_store import store_facts
from tests.postgres import PASSWORD, PostgresServer


def test_without_a_url_the_store_is_a_file() -> None:
    (fact,) = store_facts({})
    assert (fact.status, fact.value) == ("ok", "a file")


def test_a_database_that_answers_is_named(postgres: PostgresServer, schema: str) -> None:
    (fact,) = store_facts({"STOKER_STORE": postgres.url(schema)})
    assert fact.status == "ok"
    assert "PostgreSQL" in fact.meaning
    with postgres.connect() as connection:
        assert connection.execute("SELECT to_regnamespace(%s)", (schema,)).fetchone() == (None,), "nothing was made"


def test_one_that_does_not_is_a_failure_without_its_password(postgres: PostgresServer, schema: str) -> None:
    (fact,) = store_facts({"STOKER_STORE": postgres.url(schema, port=1)})
    assert fact.status == "fail"
    assert "No connection to the store" in fact.meaning
    assert PASSWORD not in fact.meaning


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (fact,) = store_facts({"STOKER_STORE": "postgresql://host/db"})
    assert "stoker[postgres]" in fact.meaning

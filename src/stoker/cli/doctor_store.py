"""What `stoker doctor` says of the store: whether the database that was named can be one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping

from stoker.engine.local.probes import FAIL, OK, Fact
from stoker.errors import StokerError
from stoker.store.postgres.address import parse


def store_facts(environ: Mapping[str, str]) -> Iterator[Fact]:
    """Yield what there is to say; nothing is changed."""
    url = environ.get("STOKER_STORE", "")
    if not url:
        yield Fact("store", OK, "a file", "Spawned calls are kept on this machine's disk; --store names a database.")
        return
    if importlib.util.find_spec("psycopg") is None:
        yield Fact(
            "store", FAIL, "psycopg is not installed", "A PostgreSQL store needs it: pip install 'stoker[postgres]'."
        )
        return
    from stoker.store.postgres.store import look  # its driver is there for those who asked for it

    try:
        address = parse(url, option="STOKER_STORE")
        version = look(address)
    except StokerError as error:
        yield Fact("store", FAIL, "not usable", str(error))
        return
    yield Fact("store", OK, address.shown, f"{version} answers; spawned calls are kept there.")

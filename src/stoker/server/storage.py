"""Which store a server has: the file in its own directory, or the database that it was told."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from stoker.errors import StoreError
from stoker.server.config import ServerConfig
from stoker.store.base import Store
from stoker.store.postgres.address import parse
from stoker.store.sqlite import SqliteStore

VARIABLE = "STOKER_STORE"


def open_store(config: ServerConfig, *, standby: Callable[[str], None] | None = None) -> Store:
    """Open the store; ``standby`` has one that another server works on waited for, and is told who does.

    Raises:
        StoreError: it cannot be used, or not now.
        InvalidOption: the URL is none of a database.
    """
    if not config.store:
        return SqliteStore(config.state_dir / "store.db", durable=config.mode == "persistent")
    address = parse(config.store, option=VARIABLE)
    if importlib.util.find_spec("psycopg") is None:
        raise StoreError(
            f"The store {address.shown} needs the package psycopg, which is not installed beside Stoker. "
            "Install it: pip install 'stoker[postgres]'."
        )
    from stoker.store.postgres.store import PostgresStore  # its driver is there for those who asked for it

    return PostgresStore.exclusive(address, standby=standby)

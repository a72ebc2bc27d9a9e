"""The steps of `stoker.store.migrations` in PostgreSQL's words: the same numbers and names, never changed."""

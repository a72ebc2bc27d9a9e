"""The store in a PostgreSQL database. `stoker.store.postgres.store` has the verbs; only this package imports psycopg.

`address` reads the URL and needs no driver; everything else does, and is imported only when such a store is asked for.
"""

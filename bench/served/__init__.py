"""Servers of HTTP, each a program of its own: ``python -m bench.served.on_uvicorn echo 8123``.

Each serves one of the same few things, at ``/echo``, ``/label`` or ``/slow``, on Stoker and on each peer, until its
standard input ends. `bench.http_servers` starts them.
"""

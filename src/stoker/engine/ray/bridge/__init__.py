"""The bridge to Ray: a child process of the server that is a driver of the cluster. Ray is imported here alone.

It is run as ``python -m stoker.engine.ray.bridge FD``, speaks the lines of `stoker.engine.ray.wire` on that socket, and
ends when the other side does. Nothing that it has made ends with it, but the groups that only stand for demand.
"""

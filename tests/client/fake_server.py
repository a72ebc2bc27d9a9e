"""The fake server, under the name by which the client's tests know it."""

from stoker.testing.server import FakeServer, Gate

__all__ = ["FakeServer", "Gate"]

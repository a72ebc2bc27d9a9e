"""The version of this installation, in one place."""

__version__ = "0.1.0"

PROTOCOL_VERSION = 1
"""Raised with every change of a message that an older peer would misread; the first frame carries it."""

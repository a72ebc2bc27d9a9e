"""Stoker beside its peers, both in one run: ``python -m bench``."""

"""The command line: `stoker`. One file per command group; `program` puts them together."""

from __future__ import annotations


def main() -> None:
    """Run the command that the program's arguments name; exits with its status."""
    from stoker.cli.program import run_program

    raise SystemExit(run_program())


__all__ = ["main"]

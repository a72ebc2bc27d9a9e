"""Measure rows of the table: ``python -m bench [row …] [--scale 0.1] [--write-docs]``."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback

from bench import documentation, overload_plot, report

ROWS = (
    "round_trip",
    "map_throughput",
    "large_arrays",
    "start_up",
    "cold_start",
    "million_map",
    "queued_million",
    "durable_calls",
    "durable_calls_postgres",
    "idle",
    "gang",
    "ray_round_trip",
    "ray_map",
    "ray_scale",
    "ray_shared",
    "serve_echo",
    "serve_fastapi",
    "serve_batched",
    "serve_cold",
    "serve_first_token",
    "serve_idle",
    "serve_redeploy",
    "serve_paths",
    "serve_overload",
)


def main() -> int:
    """Measure what was asked for; the exit status is 1 where a row failed to run, 0 also where a floor is not met."""
    arguments = _parse()
    failed = []
    for row in arguments.rows or (() if arguments.write_docs else ROWS):
        module = importlib.import_module(f"bench.{row}")
        described = report.machine()
        try:
            lines = module.measure(arguments.scale)
        except Exception:
            traceback.print_exc()
            failed.append(row)
            continue
        report.print_lines(module.TITLE, lines)
        if arguments.scale == 1.0 or arguments.keep:
            report.write(row, module.TITLE, lines, described)
    if arguments.write_docs:
        documentation.write(ROWS)
        overload_plot.write()
    if failed:
        print(f"\nDid not run: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], metavar="row", help=f"of {', '.join(ROWS)}; else all")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the work; below 1 nothing is kept")
    parser.add_argument("--keep", action="store_true", help="keep the results of a scaled run too")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md from what was kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

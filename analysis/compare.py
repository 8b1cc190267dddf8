"""How do sweeps compare at equal cost? ``python -m analysis.compare RUN OTHER``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from analysis import one_line
from tune_gan.results.answers import print_comparison
from tune_gan.results.formats import Format


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the answer for what the command line names."""
    parser = argparse.ArgumentParser(description="How do sweeps compare at equal cost?")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a sweep")
    parser.add_argument("--by", default="iterations", help="iterations, seconds or trials")
    options = parser.parse_args(arguments)
    with one_line(parser):
        print_comparison(options.runs, options.by, Format.TABLE)


if __name__ == "__main__":
    main()

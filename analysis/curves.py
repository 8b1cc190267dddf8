"""Was early stopping right? ``python -m analysis.curves RUN``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from analysis import one_line
from tune_gan.results.answers import print_curves
from tune_gan.results.formats import Format


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the answer for what the command line names."""
    parser = argparse.ArgumentParser(description="Was early stopping right?")
    parser.add_argument("run", type=Path, help="the folder of a sweep")
    options = parser.parse_args(arguments)
    with one_line(parser):
        print_curves(options.run, Format.TABLE)


if __name__ == "__main__":
    main()

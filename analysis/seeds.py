"""How much of a score is the seed's? ``python -m analysis.seeds RUN``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from analysis import one_line
from tune_gan.results.answers import print_seeds
from tune_gan.results.formats import Format


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the answer for what the command line names."""
    parser = argparse.ArgumentParser(description="How much of a score is the seed's?")
    parser.add_argument("run", type=Path, help="the folder of a confirmed sweep")
    options = parser.parse_args(arguments)
    with one_line(parser):
        print_seeds(options.run, Format.TABLE)


if __name__ == "__main__":
    main()

"""Which hyperparameters mattered? ``python -m analysis.importance RUN [OTHER ...]``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from analysis import one_line
from tune_gan.results.answers import print_importance
from tune_gan.results.formats import Format


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the answer for what the command line names."""
    parser = argparse.ArgumentParser(description="Which hyperparameters mattered, alone and in pairs?")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a sweep")
    parser.add_argument("--method", default="ped-anova", help="ped-anova or fanova")
    options = parser.parse_args(arguments)
    with one_line(parser):
        print_importance(options.runs, options.method, Format.TABLE)


if __name__ == "__main__":
    main()

"""Which configuration of a sweep is best? ``python -m analysis.rank RUN [OTHER ...]``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from analysis import one_line
from tune_gan.results.floor import read_floor
from tune_gan.results.formats import Format
from tune_gan.results.rules import Rule, rank_runs
from tune_gan.results.show import print_gain, print_ranking


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ranking of the run folders that the command line names."""
    parser = argparse.ArgumentParser(description="Rank the trials of sweeps.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a sweep")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    with one_line(parser):
        ranked = rank_runs(options.runs, Rule())
        print_ranking(
            ranked, Format.JSON if options.json else Format.TABLE, read_floor(options.runs[0])
        )
        if not options.json and len(options.runs) == 1:
            print_gain(ranked)


if __name__ == "__main__":
    main()

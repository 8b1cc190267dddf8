"""Which configuration of a sweep is best? ``python -m analysis.rank RUN``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tune_gan.results.floor import read_floor
from tune_gan.results.load import load_results
from tune_gan.results.ranking import rank
from tune_gan.results.show import print_ranking


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ranking of the run folder that the command line names."""
    parser = argparse.ArgumentParser(description="Rank the trials of a sweep.")
    parser.add_argument("run", type=Path, help="the folder of a sweep")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    ranked = rank(load_results(options.run))
    print_ranking(ranked, as_json=options.json, floor=read_floor(options.run))


if __name__ == "__main__":
    main()

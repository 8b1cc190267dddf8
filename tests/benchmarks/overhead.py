"""What a sweep costs besides its trainings: ``python -m tests.benchmarks.overhead RUN``.

Reads the reports of a run that was not interrupted, and prints how long a process takes from the last
report of a trial to the beginning of the next one's training, and the sweep's wall time over the time
that it would have taken had its processes done nothing but train.
"""

import sys
from pathlib import Path

import pandas as pd

from tune_gan.results.reports import load_reports


def start_ups(reports: pd.DataFrame) -> pd.Series:
    """Return the seconds between two trials of a process, all that is neither training nor scores."""
    ends = reports.groupby("trial").agg(
        worker=("worker", "first"),
        began=("reported_at", "min"),
        until_first=("time_s", "min"),
        ended=("reported_at", "max"),
    )
    ends = ends.sort_values("began")
    seconds: pd.Series = (
        ends["began"] - ends["until_first"] - ends.groupby("worker")["ended"].shift()
    ).dropna()
    return seconds


def overhead(reports: pd.DataFrame) -> float:
    """Return wall time, from the first training's beginning on, over that of training alone."""
    first = reports.sort_values("reported_at").iloc[0]
    wall = reports["reported_at"].max() - (first["reported_at"] - first["time_s"])
    trained = reports.groupby("trial")["train_time_s"].max().sum()
    return float(wall / (trained / reports["worker"].nunique()))


def main() -> None:
    """Print both of the run that is named."""
    reports = load_reports(Path(sys.argv[1]))
    seconds = start_ups(reports)
    print(f"{reports['trial'].nunique()} trials in {reports['worker'].nunique()} processes")
    print(f"start-up in a process that has trained before: {seconds.median():.2f} s", end="")
    print(f" ({seconds.min():.2f} to {seconds.max():.2f})")
    print(f"wall time over training time of each process: {overhead(reports):.3f}")


if __name__ == "__main__":
    main()

"""What did a sweep find, and what did it cost? ``python -m analysis.study RUN [OTHER ...]``.

Prints, for each run, its best score and what was spent on it, and can keep all reports of the runs.
What mattered, and how much the seed did, are questions of their own: `importance` and `seeds`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import one_line
from tune_gan.results.formats import of_one_kind
from tune_gan.results.load import load_results
from tune_gan.results.ranking import rank
from tune_gan.results.trials import read_sweep, read_trials


def costs(runs: Sequence[Path]) -> pd.DataFrame:
    """Return what runs found and what they spent, a row a run.

    Returns:
        ``best`` score and ``default``, that of trial 0; ``trials`` begun and how many were ``stopped``
        by the scheduler; ``iterations`` spent; and ``saved``, the share of what all these trials would
        have taken to their last iteration.
    """
    rows = []
    tables = [load_results(run) for run in runs]
    # Refuses scores that do not compare.
    rank(pd.concat(tables))
    for run, table in zip(runs, tables, strict=True):
        ranked = rank(table)
        whole = len(table) * read_sweep(run)["gan"]["num_iterations"]
        spent = int(table["iteration"].fillna(0).sum())
        rows.append(
            {
                "run": run.absolute().name,
                "best": ranked[ranked["rank"] == 1]["best_fid_proxy"].min(),
                "default": table[table["trial"] == 0]["best_fid_proxy"].min(),
                "trials": len(table),
                "stopped": int((table["cause"] == "scheduler").sum()),
                "iterations": spent,
                "saved": 1 - spent / whole if whole else float("nan"),
            }
        )
    return pd.DataFrame(rows).set_index("run")


def all_reports(run: Path) -> pd.DataFrame:
    """Return every report of a run, a row each, with its trial's state, cause and searched fields."""
    return pd.DataFrame(
        [
            {
                "trial": t.number,
                "trial_state": t.state.value,
                "trial_cause": t.cause,
                **t.values,
                **report,
            }
            for t in read_trials(run)
            for report in t.reports
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what the run folders that the command line names found."""
    parser = argparse.ArgumentParser(description="What sweeps found, and what they cost.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a sweep")
    parser.add_argument("--parquet", type=Path, help="folder to keep all reports in, a file a run")
    options = parser.parse_args(arguments)
    with one_line(parser):
        print(costs(options.runs).to_string(float_format="%.3g"))
    names = [run.absolute().name for run in options.runs]
    if options.parquet is not None and len(set(names)) < len(names):
        parser.error("two runs have one name, and would have one file; keep them one at a time")
    for run in options.runs:
        if options.parquet is not None:
            options.parquet.mkdir(parents=True, exist_ok=True)
            for part in (run, run / "confirm"):
                if (part / "trials.jsonl").is_file():
                    own = run.absolute().name
                    name = own if part == run else f"{own}-confirm"
                    file = options.parquet / f"{name}.parquet"
                    of_one_kind(all_reports(part)).to_parquet(file, compression="zstd")


if __name__ == "__main__":
    main()

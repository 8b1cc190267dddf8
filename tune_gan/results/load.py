"""Load a run folder as one table, a row a trial."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from tune_gan.errors import RunFolderError
from tune_gan.results.trials import (
    TRIALS_FILE,
    ListedTrial,
    best_report,
    finite,
    objective_of,
    read_sweep,
    read_trials,
    second_objective,
)

COLUMNS = [
    "trial",
    "state",
    "cause",
    "best_fid_proxy",
    "best_iteration",
    "fid_proxy_se",
    "degenerate",
    "fid_proxy",
    "iteration",
    "instrument",
]

_log = logging.getLogger(__name__)


def load_results(run: str | Path) -> pd.DataFrame:
    """Load the trials of a run, finished, interrupted or running.

    Nothing is unpickled, and damaged lines are left out with a warning that names their file, so that
    also the folders of strangers and of sweeps that were killed can be read.

    Args:
        run: The run folder.

    Returns:
        A row a trial, by number: ``trial`` (0 is the default configuration), ``state`` (a
        `TrialState`), ``cause`` (empty for completed), ``best_fid_proxy`` (lower is better) and
        ``best_iteration`` at which it was reached, ``fid_proxy_se``, its standard error,
        ``degenerate``, whether even the best samples are a few repeated or all but of one class,
        the last ``fid_proxy`` and its ``iteration``, the ``instrument`` of all these, then the sweep's
        second objective where it has one, and a column for each searched field. What a trial has not
        reported is missing, never 0. Empty before the first trial.

    Raises:
        RunFolderError: if the folder is no run folder or holds no list of trials that can be read.
    """
    folder = Path(run)
    spec = _sweep_if_whole(folder)
    trials = read_trials(folder)
    fields = list(spec["space"]) if spec else list(dict.fromkeys(n for t in trials for n in t.values))
    second = second_objective(spec) if spec else None
    rows = [_row(trial, second) for trial in trials]
    columns = [*COLUMNS, *([second] if second else []), *fields]
    table = pd.DataFrame(rows, columns=columns)
    # What is missing is None, also where no trial of the table has any.
    table["instrument"] = table["instrument"].astype(object).where(table["instrument"].notna(), None)
    kinds = {"best_iteration": "Int64", "iteration": "Int64", "degenerate": "boolean"}
    return table.astype({**kinds, "fid_proxy_se": "float64"}).sort_values("trial", ignore_index=True)


def _sweep_if_whole(folder: Path) -> dict[str, Any] | None:
    try:
        return read_sweep(folder)
    except RunFolderError as error:
        if not (folder / TRIALS_FILE).is_file():
            raise
        _log.warning("%s", error)
        return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _row(trial: ListedTrial, second: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": trial.number, **trial.values}
    row |= {"state": trial.state.value, "cause": trial.cause}
    if trial.reports:
        best = best_report(trial.reports)
        row |= {
            "best_fid_proxy": best["fid_proxy"],
            "best_iteration": best["iteration"],
            "fid_proxy_se": finite(best, "fid_proxy_se"),
            "degenerate": best.get("degenerate") is True,
            "fid_proxy": trial.reports[-1]["fid_proxy"],
            "iteration": trial.reports[-1]["iteration"],
            "instrument": _text(best.get("instrument")),
        }
    if second:
        row[second] = objective_of(trial.reports, second)
    return row

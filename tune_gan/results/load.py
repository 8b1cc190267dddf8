"""Load a run folder as one table, a row a trial."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from tune_gan.config import GanConfig
from tune_gan.errors import RunFolderError
from tune_gan.results.formats import records
from tune_gan.results.reports import best_reports, last_reports, load_reports
from tune_gan.results.trials import (
    TRIALS_FILE,
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

_LARGEST_INT = 2**63

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
    named = list(spec["space"]) if spec else list(dict.fromkeys(n for t in trials for n in t.values))
    # Nothing that a stranger wrote is to pass for another column.
    fields = [name for name in named if name in GanConfig.model_fields]
    second = second_objective(spec) if spec else None
    rows = [{"trial": t.number, **t.values, "state": t.state.value, "cause": t.cause} for t in trials]
    table = pd.DataFrame(rows, columns=["trial", "state", "cause", *fields])
    table = table.join(_scores(load_reports(folder, trials), second), on="trial")
    # What is missing is None, also where no trial of the table has any.
    table["instrument"] = table["instrument"].astype(object).where(table["instrument"].notna(), None)
    kinds = {"best_iteration": "Int64", "iteration": "Int64", "degenerate": "boolean"}
    # A whole number stays one where other trials have none.
    kinds |= {name: "Int64" for name in fields if _is_whole(rows, name)}
    columns = [*COLUMNS, *([second] if second else []), *fields]
    return table[columns].astype(kinds).sort_values("trial", ignore_index=True)


def _is_whole(rows: list[dict[str, Any]], name: str) -> bool:
    values = [row.get(name) for row in rows]
    known = [value for value in values if value is not None]
    return (
        bool(known)
        and len(known) < len(values)
        and all(type(value) is int and abs(value) < _LARGEST_INT for value in known)
    )


def _sweep_if_whole(folder: Path) -> dict[str, Any] | None:
    try:
        return read_sweep(folder)
    except RunFolderError as error:
        if not (folder / TRIALS_FILE).is_file():
            raise
        _log.warning("%s", error)
        return None


def _scores(reports: pd.DataFrame, second: str | None) -> pd.DataFrame:
    """Return what the reports of each trial come to, by its number."""
    best, last = best_reports(reports), last_reports(reports)
    scores = pd.DataFrame(
        {
            "best_fid_proxy": best["fid_proxy"],
            "best_iteration": best["iteration"],
            "fid_proxy_se": best["fid_proxy_se"],
            "degenerate": best["degenerate"],
            "fid_proxy": last["fid_proxy"],
            "iteration": last["iteration"],
            "instrument": best["instrument"],
        }
    )
    if second:
        parts = {trial: objective_of(records(part), second) for trial, part in reports.groupby("trial")}
        scores[second] = pd.Series(parts, dtype=float)
    return scores

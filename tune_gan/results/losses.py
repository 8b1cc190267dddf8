"""Load the losses of every iteration of a run as one table."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from tune_gan.errors import RunFolderError
from tune_gan.losses_file import LOSSES, LOSSES_FILE, read_losses
from tune_gan.results.trials import read_reports, read_trials, trial_folder

COLUMNS = ["trial", "iteration", *LOSSES]
# As `tune_gan.gan.run_folder` names them.
_TRAINING_CONFIG = "config.yaml"
_TRAINING_REPORTS = "metrics.jsonl"
_LOW, _HIGH = 0.1, 0.9


def load_losses(run: str | Path, trials: Iterable[int] | None = None) -> pd.DataFrame:
    """Load the losses of every iteration of a run, finished, interrupted or running.

    Nothing is unpickled.

    Args:
        run: The folder of a sweep, or of one training by `train`, which is trial 0.
        trials: The trials to load; by default all.

    Returns:
        A row an iteration, by trial and iteration: ``trial`` and ``iteration`` as int64, then
        ``gen_loss``, ``disc_loss`` (penalties included), ``disc_real`` and ``disc_fake`` as float32.
        What diverged is not finite. An iteration whose losses were lost has NaN. A trial is missing
        where it has no losses: before its first report, and in runs of version 0.2.0 and earlier.

    Raises:
        RunFolderError: if the folder is neither, or holds no list of trials that can be read.
        StorageError: if a file of losses cannot be read.
    """
    folders = _training_folders(Path(run))
    chosen = sorted(folders if trials is None else folders.keys() & set(trials))
    read = {number: read_losses(folders[number] / LOSSES_FILE) for number in chosen}
    found = {number: rows for number, rows in read.items() if len(rows)}
    lengths = [len(rows) for rows in found.values()]
    rows = np.concatenate([np.empty((0, len(LOSSES)), np.float32), *found.values()])
    first = np.cumsum([0, *lengths])[:-1]
    columns = {
        "trial": np.repeat(np.array(list(found), dtype=np.int64), lengths),
        "iteration": np.arange(1, len(rows) + 1, dtype=np.int64) - np.repeat(first, lengths),
    }
    return pd.DataFrame(columns | {name: rows[:, place] for place, name in enumerate(LOSSES)})


def require_losses(run: Path, losses: pd.DataFrame) -> None:
    """Refuse a run without losses.

    Args:
        run: The folder.
        losses: What `load_losses` returns of it.

    Raises:
        RunFolderError: if the table is empty.
    """
    if not losses.empty:
        return
    if _has_reports(run):
        raise RunFolderError(
            f"{run} has no {LOSSES_FILE}: an earlier version trained it, which kept none; "
            "train it again to have them"
        )
    raise RunFolderError(
        f"{run} has no losses: nothing has reported; they are there from the first report on"
    )


def loss_bands(losses: pd.DataFrame, num_bins: int) -> pd.DataFrame:
    """Return the mean and the spread of losses over stretches of iterations.

    Args:
        losses: What `load_losses` returns.
        num_bins: The most stretches of a trial, all as long, but for the last one.

    Returns:
        A row a trial, stretch and loss, in this order: ``trial``, ``first`` and ``last`` iteration,
        ``loss`` (``gen_loss`` or ``disc_loss``), ``mean``, ``low`` and ``high`` (10th and 90th
        percentile). All three are NaN where a loss of the stretch is not finite.
    """
    length = losses.groupby("trial")["iteration"].transform("max")
    width = -(-length // num_bins)
    long = losses.assign(stretch=(losses["iteration"] - 1) // width).melt(
        ["trial", "stretch", "iteration"], ["gen_loss", "disc_loss"], "loss", "value"
    )
    # Sums of float32 over thousands of iterations would be off in the fifth digit.
    long["value"] = long["value"].astype(np.float64).where(np.isfinite(long["value"]))
    parts = long.groupby(["trial", "stretch", "loss"], sort=True)
    table = parts.agg(first=("iteration", "min"), last=("iteration", "max"), mean=("value", "mean"))
    table["low"], table["high"] = parts["value"].quantile(_LOW), parts["value"].quantile(_HIGH)
    is_whole = parts["value"].count() == parts.size()
    table.loc[~is_whole, ["mean", "low", "high"]] = np.nan
    columns = ["trial", "first", "last", "loss", "mean", "low", "high"]
    # The generator's first, as in all tables.
    return table.reset_index().sort_values(
        ["trial", "first", "loss"], ascending=[True, True, False], ignore_index=True
    )[columns]


def _training_folders(run: Path) -> dict[int, Path]:
    """Return the folder of each training by the number of its trial."""
    if _is_one_training(run):
        return {0: run}
    return {trial.number: trial_folder(run, trial.number) for trial in read_trials(run)}


def _is_one_training(folder: Path) -> bool:
    return (folder / _TRAINING_CONFIG).is_file() and not (folder / "sweep.yaml").exists()


def _has_reports(run: Path) -> bool:
    if _is_one_training(run):
        return bool(read_reports(run / _TRAINING_REPORTS))
    return any(trial.read()[0] for trial in read_trials(run))

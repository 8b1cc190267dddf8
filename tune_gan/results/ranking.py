"""Rank the trials of a run, and say what tuning gained."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tune_gan.errors import SweepFailedError
from tune_gan.results.load import COLUMNS, TrialState, load_results, trial_folder

_ORDER_OF_STATES = [
    [TrialState.COMPLETED, TrialState.STOPPED],
    [TrialState.RUNNING],
    [TrialState.PENDING],
    [TrialState.DIVERGED],
    [TrialState.FAILED],
]


@dataclass(frozen=True)
class Gain:
    """What the best trial of a sweep gained over the default configuration.

    Attributes:
        default: `best_fid_proxy` of trial 0.
        best: `best_fid_proxy` of the best trial.
    """

    default: float
    best: float

    @property
    def ratio(self) -> float:
        """How many times lower the best score is than the default's."""
        return self.default / self.best if self.best else float("inf")


def rank(trials: pd.DataFrame) -> pd.DataFrame:
    """Order trials by `best_fid_proxy`, lowest first, and number them in a new column ``rank``.

    Completed and stopped trials are ranked. Unfinished, diverged and failed ones follow without a rank,
    in this order, each group by score and then by number.

    Args:
        trials: What `tune_gan.load_results` returns.
    """
    place = {state: i for i, group in enumerate(_ORDER_OF_STATES) for state in group}
    ordered = (
        trials.assign(_group=trials["state"].map(place))
        .sort_values(["_group", "best_fid_proxy", "trial"], ignore_index=True)
        .drop(columns="_group")
    )
    ranked = ordered["state"].isin(_ORDER_OF_STATES[0]) & ordered["best_fid_proxy"].notna()
    ordered.insert(0, "rank", ranked.cumsum().where(ranked).astype("Int64"))
    return ordered


def best_trial(ranked: pd.DataFrame) -> pd.Series:
    """Return the row of the best trial.

    Args:
        ranked: What `rank` returns.

    Raises:
        SweepFailedError: if no trial is ranked, with the states counted.
    """
    if ranked.empty or pd.isna(ranked["rank"].iloc[0]):
        counts = ", ".join(f"{n} {state}" for state, n in ranked["state"].value_counts().items())
        causes = [cause for cause in ranked["cause"].unique() if cause]
        why = f"; first cause: {causes[0]}" if causes else ""
        raise SweepFailedError(f"no trial can be ranked ({counts or 'none has started'}){why}")
    return ranked.iloc[0]


def best_trial_folder(run: Path) -> Path:
    """Return the folder of a sweep's best trial.

    Raises:
        RunFolderError: if the folder is no run folder.
        SweepFailedError: if no trial is ranked.
    """
    return trial_folder(run, int(best_trial(rank(load_results(run)))["trial"]))


def gain_over_default(ranked: pd.DataFrame) -> Gain | None:
    """Return the gain of the best trial over trial 0, or None where either has no rank."""
    default = ranked[(ranked["trial"] == 0) & ranked["rank"].notna()]
    if default.empty:
        return None
    return Gain(float(default["best_fid_proxy"].iloc[0]), float(ranked["best_fid_proxy"].iloc[0]))


def searched_fields(trials: pd.DataFrame) -> list[str]:
    """Return the columns that are searched fields."""
    return [column for column in trials.columns if column not in ("rank", *COLUMNS)]

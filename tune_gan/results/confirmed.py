"""Which configuration is best when each is trained with several seeds: the ranking of `confirm`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tune_gan.errors import IncomparableError, RunFolderError
from tune_gan.results.floor import Floor, read_floor
from tune_gan.results.trials import (
    TRIALS_FILE,
    ListedTrial,
    TrialState,
    best_report,
    read_sweep,
    read_trials,
)

CONFIRMATION_FOLDER = "confirm"
_LEVEL = 0.95
_NUM_DRAWS = 100_000


@dataclass(frozen=True)
class Confirmed:
    """A confirmation of a run.

    Attributes:
        table: A row a configuration, best first: ``rank``; ``trial``, its number in the run; ``seeds``
            it was trained with to the end, ``lost``, how many others diverged, collapsed, failed or
            made only degenerate samples, and ``left``, how many have not ended; ``mean`` of the seeds'
            scores, ``low`` and ``high``, the ends of its 95 % interval by Student's t (missing with one
            seed); ``p_best``, the probability that it has the lowest mean; ``p_first``, the two-sided p
            of Welch's t-test against the first; and ``scores``, one for each seed.
        floor: What real samples score.
        instrument: What the scores were measured with; empty where that is not known.
        num_left: Trainings that have not ended.
        num_ended: Trials of the run that had ended when it was begun.
    """

    table: pd.DataFrame
    floor: Floor | None
    instrument: str
    num_left: int
    num_ended: int


def load_confirmation(run: Path) -> Confirmed | None:
    """Load what `tune-gan confirm` found, or return None where it was not run.

    A seed's score is the mean over the latents it was scored with. Configurations that lost a seed
    follow after those that lost none. The probability of being best is the share of draws in which
    a configuration's mean is the lowest, each mean drawn from its posterior under the prior
    1/variance, a Student t distribution around the mean of its scores (Gelman et al., Bayesian Data
    Analysis, 3rd edition, section 3.2). A percentile bootstrap would be too sure of so few seeds.

    Raises:
        RunFolderError: if its folder is damaged.
        IncomparableError: if its scores were measured with different instruments.
    """
    folder = run / CONFIRMATION_FOLDER
    if not (folder / TRIALS_FILE).is_file():
        return None
    how: Any = read_sweep(folder).get("confirmation")
    try:
        candidates = [int(number) for number in how["candidates"]]
        num_seeds, num_ended = len(how["seeds"]), int(how["num_ended"])
        if not candidates or not num_seeds:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise RunFolderError(f"{folder / 'sweep.yaml'} is damaged: it confirms nothing") from None
    total = len(candidates) * num_seeds
    trials = read_trials(folder)
    rows = []
    for place, number in enumerate(candidates):
        own = [trial for trial in trials if trial.number % len(candidates) == place]
        rows.append({"trial": number, **_summary(own, num_seeds)})
    table = _ranked(pd.DataFrame(rows))
    ended = sum(t.state not in (TrialState.RUNNING, TrialState.PENDING) for t in trials)
    names = {str(t.reports[-1].get("rescored_by", "")) for t in trials if t.reports} - {""}
    if len(names) > 1:
        raise IncomparableError(
            f"scores of different instruments do not compare ({'; '.join(sorted(names))}); remove "
            f"{folder} and confirm again"
        )
    instrument = names.pop() if names else ""
    return Confirmed(table, read_floor(folder), instrument, total - ended, num_ended)


def not_separable(confirmed: Confirmed) -> list[int]:
    """Return the trials whose means cannot be told from the first's at the 5 % level."""
    others = confirmed.table.iloc[1:]
    return [int(row["trial"]) for _, row in others.iterrows() if not row["p_first"] < 1 - _LEVEL]


def _summary(trials: list[ListedTrial], num_seeds: int) -> dict[str, Any]:
    scores, lost = [], 0
    for trial in trials:
        rescored = _numbers(trial.reports[-1].get("rescored")) if trial.reports else []
        honest = bool(trial.reports) and best_report(trial.reports).get("degenerate") is not True
        if trial.state in (TrialState.COMPLETED, TrialState.STOPPED) and rescored and honest:
            scores.append(float(np.mean(rescored)))
        elif trial.state not in (TrialState.RUNNING, TrialState.PENDING):
            lost += 1
    mean, low, high = interval_of_mean(scores)
    return {
        "seeds": len(scores),
        "lost": lost,
        "left": num_seeds - len(scores) - lost,
        "mean": mean,
        "low": low,
        "high": high,
        "scores": scores,
    }


def interval_of_mean(scores: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of scores and both ends of its 95 % interval by Student's t.

    Without a score all are missing, with one the ends are.
    """
    # Imported here, since it takes a second.
    from scipy import stats

    mean = float(np.mean(scores)) if len(scores) else math.nan
    margin = math.nan
    if len(scores) > 1:
        quantile = stats.t.ppf((1 + _LEVEL) / 2, len(scores) - 1)
        margin = float(quantile * np.std(scores, ddof=1) / math.sqrt(len(scores)))
    return mean, mean - margin, mean + margin


def _numbers(value: Any) -> list[float]:
    """Return a list of finite numbers, or none where it is anything else."""
    numbers = value if isinstance(value, list) else []
    if all(type(number) in (int, float) and abs(number) < math.inf for number in numbers):
        return [float(number) for number in numbers]
    return []


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    lossy = table["lost"] > 0
    table = table.assign(_lossy=lossy).sort_values(["_lossy", "mean", "trial"], ignore_index=True)
    table = table.drop(columns="_lossy")
    table.insert(0, "rank", range(1, len(table) + 1))
    table["p_best"] = _probabilities(table["scores"].tolist())
    first = table["scores"].iloc[0]
    table["p_first"] = [p_of_difference(first, scores) for scores in table["scores"]]
    return table


def _probabilities(scores: list[list[float]]) -> list[float]:
    """Return how probable it is for each that its mean is the lowest; missing below two scores."""
    source = np.random.default_rng(0)
    draws = np.full((len(scores), _NUM_DRAWS), np.inf)
    for i, own in enumerate(scores):
        if len(own) > 1:
            spread = np.std(own, ddof=1) / math.sqrt(len(own))
            draws[i] = np.mean(own) + spread * source.standard_t(len(own) - 1, _NUM_DRAWS)
    wins = np.bincount(draws.argmin(axis=0), minlength=len(scores)) / _NUM_DRAWS
    return [float(w) if len(own) > 1 else math.nan for w, own in zip(wins, scores, strict=True)]


def p_of_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the two-sided p of Welch's t-test, missing below two scores of each."""
    if len(one) < 2 or len(other) < 2:
        return math.nan
    if np.std(one) == np.std(other) == 0:
        return 1.0 if np.mean(one) == np.mean(other) else 0.0
    # Imported here, since it takes a second.
    from scipy import stats

    return float(stats.ttest_ind(one, other, equal_var=False).pvalue)

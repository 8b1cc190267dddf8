"""Which hyperparameters mattered, alone and in pairs, and whether the trials can tell."""

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tune_gan.errors import ConfigError, IncomparableError
from tune_gan.results.reports import load_reports
from tune_gan.results.trials import TrialState, read_sweep, read_trials
from tune_gan.space import Distribution, plain

LEAST_TRIALS = 30
NOISE = "noise"
_NUM_BOOTSTRAPS = 20
_NUM_TREES = 32
_NUM_BINS = 3
_MOST_PAIRS = 10
# A Frechet distance may come out as 0 or a little below, which has no logarithm.
_LEAST_SCORE = 1e-6


class Method(StrEnum):
    """How importance is measured."""

    PED_ANOVA = "ped-anova"
    FANOVA = "fanova"


# Of each bootstrap sample: more trials narrow the range but little, and cost time in proportion.
_MOST_TRIALS = {Method.PED_ANOVA: 500, Method.FANOVA: 200}


@dataclass(frozen=True)
class Importance:
    """What mattered to the scores of a sweep.

    Attributes:
        table: A row a field, most important first: ``field``; ``share`` of the importance of all, the
            median over bootstrap samples of the trials; ``low`` and ``high``, the middle 80 % of
            these; and ``matters``, whether its low end is above the high end of ``noise``, a field of
            random numbers that is measured with the others.
        pairs: The same for pairs of the fields that matter most, over what each explains alone, each
            with what ``noise`` of its own reaches: the 90 % quantile with scores in random order.
        left_out: Searched fields that not every trial has, which cannot be compared.
        iteration: Where in training the scores were compared.
        num_trials: How many trials could be.
        method: How it was measured.
    """

    table: pd.DataFrame
    pairs: pd.DataFrame
    left_out: list[str]
    iteration: int
    num_trials: int
    method: Method


def importance(runs: Sequence[Path], method: Method = Method.PED_ANOVA) -> Importance:
    """Return which hyperparameters mattered to the score of the trials of runs over one space.

    Scores compare at equal training lengths alone: a trial's is its best up to the last iteration that
    completed and stopped ones have reached, without a scheduler the last of all, else the first rung;
    of a collapsed one it is that until its end. Trials that diverged or failed are left out, so are
    those with a value outside the space, as the default may have, and fields that depend on others.
    The field ``noise`` shows what importance a field without any gets by chance.

    PED-ANOVA (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255) asks which fields' values among
    the best tenth of the trials are distributed unlike those of all. fANOVA (Hutter et al. 2014,
    https://proceedings.mlr.press/v32/hutter14.html) says which share of the variance of log10 scores
    each field explains in a random forest, of the scores as they are: early in training most samples
    are degenerate, and how far these are from the data says what learns. For pairs, the share of that
    variance that the means of a grid of 3 by 3 groups explain, less what both fields explain alone.

    Args:
        runs: Runs that search the same space.
        method: How.

    Raises:
        ConfigError: for fewer than 30 trials, which are too few to say.
        IncomparableError: for runs over different spaces, or scores of different instruments.
        RunFolderError: if one is no run folder.
    """
    space = _common_space(runs)
    points, places, scores, iteration = _points(runs, space)
    if len(scores) < LEAST_TRIALS:
        raise ConfigError(
            f"{len(scores)} trials can be compared, and under {LEAST_TRIALS} importance is guessing; "
            "run more with `tune-gan resume RUN --num-trials N`, or name several runs of this space"
        )
    fields = [name for name, distribution in space.items() if not distribution.when]
    values = places if method == Method.PED_ANOVA else scores
    with _quiet_optuna():
        draws = _bootstraps(points, values, {name: space[name] for name in fields}, method)
    table = _summary(pd.DataFrame(draws))
    left_out = [name for name in space if name not in fields]
    strongest = [name for name in table["field"] if name != NOISE][: _most_fields_of(_MOST_PAIRS)]
    pairs = _pairs(points, scores, {name: space[name] for name in strongest})
    return Importance(table, pairs, left_out, iteration, len(scores), method)


def _common_space(runs: Sequence[Path]) -> dict[str, Distribution]:
    spaces = [read_sweep(run)["space"] for run in runs]
    for run, space in zip(runs, spaces, strict=True):
        if space != spaces[0]:
            raise IncomparableError(
                f"{run} searches another space than {runs[0]}; importance is of one space, "
                "name runs that share it"
            )
    return {name: Distribution.from_mapping(given) for name, given in spaces[0].items()}


def _points(
    runs: Sequence[Path], space: Mapping[str, Distribution]
) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray, int]:
    """Return what can be compared of trials, and at which iteration.

    Returns:
        The searched fields of each trial; what it is ranked by; log10 of the score of that report; the
        iteration.
    """
    states = (TrialState.COMPLETED, TrialState.STOPPED, TrialState.COLLAPSED)
    values: dict[tuple[int, int], dict[str, Any]] = {}
    ended: set[tuple[int, int]] = set()
    tables = []
    for place, run in enumerate(runs):
        trials = read_trials(run)
        compared = {t.number: t for t in trials if t.state in states and _is_inside(t.values, space)}
        values |= {(place, number): trial.values for number, trial in compared.items()}
        collapsed = TrialState.COLLAPSED
        ended |= {(place, number) for number, t in compared.items() if t.state != collapsed}
        reports = load_reports(run, trials)
        tables.append(reports[reports["trial"].isin(compared)].assign(run=place))
    reports = pd.concat(tables, ignore_index=True)
    instruments = sorted(reports["instrument"].dropna().astype(str).unique())
    if len(instruments) > 1:
        raise IncomparableError(
            f"scores of different instruments do not compare ({'; '.join(instruments)})"
        )
    last = reports.groupby(["run", "trial"])["iteration"].max()
    # Where the collapsed ones ended is not where the others are to be judged.
    whole = [number in ended for number in last.index]
    iteration = int(last[whole].min()) if any(whole) else 0
    reached = reports[reports["iteration"] <= iteration].reset_index(drop=True)
    best = reached.loc[reached.groupby(["run", "trial"])["ranking_score"].idxmin()]
    keys = zip(best["run"], best["trial"], strict=True)
    points = [{n: plain(v) for n, v in values[key].items() if n in space} for key in keys]
    scores = np.log10(best["fid_proxy"].clip(lower=_LEAST_SCORE).to_numpy(dtype=float))
    return points, best["ranking_score"].to_numpy(dtype=float), scores, iteration


def _is_inside(values: Mapping[str, Any], space: Mapping[str, Distribution]) -> bool:
    """Return whether a trial has a value of the space for each field that does not depend on others."""
    return all(
        name in values and distribution.contains(values[name])
        for name, distribution in space.items()
        if not distribution.when
    )


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna from telling of each study that is made."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _bootstraps(
    points: Sequence[Mapping[str, Any]],
    scores: np.ndarray,
    space: Mapping[str, Distribution],
    method: Method,
) -> list[dict[str, float]]:
    """Return the importance of each field in bootstrap samples of the trials, noise among them."""
    import optuna
    from optuna.distributions import FloatDistribution

    source = np.random.default_rng(0)
    distributions = {name: d.to_optuna() for name, d in space.items()} | {
        NOISE: FloatDistribution(0, 1)
    }
    size = min(len(points), _MOST_TRIALS[method])
    draws = []
    for _ in range(_NUM_BOOTSTRAPS):
        study = optuna.create_study(direction="minimize")
        # One for each trial, which comes again with it.
        noise = source.random(len(points))
        trials = []
        for index in source.integers(len(points), size=size):
            params = {name: points[index][name] for name in space} | {NOISE: noise[index]}
            trials.append(
                optuna.trial.create_trial(
                    value=scores[index], params=params, distributions=distributions
                )
            )
        study.add_trials(trials)
        seed = int(source.integers(2**31))
        evaluator = _evaluator(method, seed)
        with warnings.catch_warnings(action="ignore"):
            draws.append(optuna.importance.get_param_importances(study, evaluator=evaluator))
    return draws


def _evaluator(method: Method, seed: int) -> Any:
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

    # It announces one of them as experimental.
    with warnings.catch_warnings(action="ignore"):
        if method == Method.PED_ANOVA:
            return PedAnovaImportanceEvaluator()
        return FanovaImportanceEvaluator(n_trees=_NUM_TREES, seed=seed)


def _summary(draws: pd.DataFrame) -> pd.DataFrame:
    table = draws.fillna(0).quantile([0.5, 0.1, 0.9]).T.set_axis(["share", "low", "high"], axis=1)
    table = table.sort_values("share", ascending=False).rename_axis("field").reset_index()
    ceiling = float(table.loc[table["field"] == NOISE, "high"].iloc[0])
    return table.assign(matters=table["low"] > ceiling)


def _most_fields_of(pairs: int) -> int:
    """Return how many fields make at most so many pairs."""
    return int((1 + math.sqrt(1 + 8 * pairs)) / 2)


def _pairs(
    points: Sequence[Mapping[str, Any]], scores: np.ndarray, space: Mapping[str, Distribution]
) -> pd.DataFrame:
    source = np.random.default_rng(0)
    groups = {name: _groups([point[name] for point in points], d) for name, d in space.items()}
    rows = []
    for one, other in itertools.combinations(space, 2):
        shares, by_chance = [], []
        for _ in range(_NUM_BOOTSTRAPS):
            chosen = source.integers(len(points), size=len(points))
            first, second = groups[one][chosen], groups[other][chosen]
            shares.append(_interaction(first, second, scores[chosen]))
            # Of the same groups, with scores that have nothing to do with them.
            by_chance.append(_interaction(first, second, source.permutation(scores)[chosen]))
        low, share, high = np.quantile(shares, [0.1, 0.5, 0.9])
        row = {"field": one, "with": other, "share": share, "low": low, "high": high}
        rows.append({**row, "noise": np.quantile(by_chance, 0.9)})
    columns = ["field", "with", "share", "low", "high", "noise"]
    table = pd.DataFrame(rows, columns=columns).sort_values("share", ascending=False)
    return table.assign(matters=table["low"] > table["noise"]).reset_index(drop=True)


def _groups(values: Sequence[Any], distribution: Distribution) -> np.ndarray:
    """Return a number for the group of each value: itself where all are listed, else its third."""
    if distribution.is_finite:
        codes: np.ndarray = pd.factorize(pd.Series([repr(value) for value in values]))[0]
        return codes
    numbers = pd.Series(values, dtype=float).rank(method="first")
    return pd.qcut(numbers, _NUM_BINS, labels=False).to_numpy()


def _interaction(first: np.ndarray, second: np.ndarray, scores: np.ndarray) -> float:
    """Return the adjusted share of variance of group means of pairs, less those of each alone."""
    both = first * (second.max() + 1) + second
    shares = [_explained(groups, scores) for groups in (both, first, second)]
    return max(0.0, shares[0] - shares[1] - shares[2])


def _explained(groups: np.ndarray, scores: np.ndarray) -> float:
    """Return epsilon squared: the share of variance between groups, less what chance gives."""
    table = pd.Series(scores).groupby(groups)
    between = float((table.size() * (table.mean() - scores.mean()) ** 2).sum())
    total = float(((scores - scores.mean()) ** 2).sum())
    num, count = len(scores), table.ngroups
    if num <= count or total == 0:
        return 0.0
    within = (total - between) / (num - count)
    return max(0.0, (between - (count - 1) * within) / total)

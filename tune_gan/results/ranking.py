"""Rank the trials of a run, and say what tuning gained."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tune_gan.errors import IncomparableError, SweepFailedError
from tune_gan.results.confirmed import Confirmed, load_confirmation, p_of_difference
from tune_gan.results.load import COLUMNS, load_results
from tune_gan.results.trials import ABOVE_ALL, SECOND_OBJECTIVES, TrialState, trial_folder

_ORDER_OF_STATES = [
    [TrialState.COMPLETED, TrialState.STOPPED],
    [TrialState.RUNNING],
    [TrialState.PENDING],
    [TrialState.COLLAPSED],
    [TrialState.DIVERGED],
    [TrialState.FAILED],
]
# What a rule adds to the table of trials.
RULE_COLUMNS = ("score", "score_se", "scores")
_MOST_CAUSES = 3
# Of the normal distribution, two-sided at the 5 % level.
_QUANTILE = 1.96
_LEVEL = 0.05


@dataclass(frozen=True)
class Gain:
    """What the best trial of a sweep gained over the default configuration.

    Attributes:
        default: The score that ranks trials, of trial 0.
        best: That of the best trial.
    """

    default: float
    best: float

    @property
    def ratio(self) -> float:
        """How many times lower the best score is than the default's; infinite from 0 down."""
        return self.default / self.best if self.best > 0 else float("inf")


def rank(trials: pd.DataFrame) -> pd.DataFrame:
    """Order trials by `best_fid_proxy`, lowest first, and number them in a new column ``rank``.

    Completed and stopped trials are ranked, those whose best samples are degenerate below all others.
    Unfinished, collapsed, diverged and failed ones follow without a rank, in this order, each group by
    score and then by number. A new column ``tied_with`` has the first trial in the ranking whose score
    is not told from this one's by the noise of drawing samples: they differ by less than 1.96 standard
    errors of the difference. Where the sweep has a second objective, a column ``pareto`` says which
    completed trials no other is better than in both.

    Args:
        trials: What `tune_gan.load_results` returns, of one run or of several with a column ``run``,
            or what `tune_gan.results.rules.by_rule` makes of it: then by its ``score``.

    Raises:
        IncomparableError: if trials were scored with different instruments.
    """
    _require_one_instrument(trials)
    place = {state: i for i, group in enumerate(_ORDER_OF_STATES) for state in group}
    by, _ = score_columns(trials)
    order = ["_group", "degenerate", by, *(["run"] if "run" in trials.columns else []), "trial"]
    ordered = (
        trials.assign(_group=trials["state"].map(place))
        .sort_values(order, ignore_index=True)
        .drop(columns="_group")
    )
    ranked = ordered["state"].isin(_ORDER_OF_STATES[0]) & ordered[by].notna()
    # Where a rule has a score for some trials only, these come first.
    ordered = pd.concat([ordered[ranked], ordered[~ranked]], ignore_index=True)
    ranked = pd.Series(range(len(ordered))) < int(ranked.sum())
    ordered.insert(0, "rank", ranked.cumsum().where(ranked).astype("Int64"))
    ordered.insert(1, "tied_with", _tied_with(ordered))
    for name, more_is_better in SECOND_OBJECTIVES.items():
        if name in ordered.columns:
            after = list(ordered.columns).index(name) + 1
            ordered.insert(after, "pareto", _on_front(ordered, name, more_is_better))
    return ordered


def score_columns(trials: pd.DataFrame) -> tuple[str, str]:
    """Return the columns of the score that ranks trials and of its standard error."""
    has_rule = "score" in trials.columns
    return ("score", "score_se") if has_rule else ("best_fid_proxy", "fid_proxy_se")


def _require_one_instrument(trials: pd.DataFrame) -> None:
    # Version 0.1.0 did not say.
    counts = trials["instrument"].value_counts()
    if len(counts) > 1:
        listed = "; ".join(f"{name}: {count} trials" for name, count in counts.items())
        raise IncomparableError(
            f"scores of different instruments do not compare ({listed}); rank each by itself"
        )


def _tied_with(ordered: pd.DataFrame) -> pd.Series:
    """Return for each ranked trial the one it is tied with, the first of those that share a place."""
    by, error = score_columns(ordered)
    names = ordered["trial"].astype(object)
    if "run" in ordered.columns:
        names = ordered["run"] + ":" + ordered["trial"].astype(str)
    tied: list[int | str | None] = []
    first: int | None = None
    columns = [name for name in (by, error, "degenerate", "scores") if name in ordered.columns]
    rows = ordered[columns].to_dict("records")
    for i, (row, place) in enumerate(zip(rows, ordered["rank"], strict=True)):
        if pd.isna(place):
            tied.append(None)
        elif first is not None and _is_noise(rows[first], row, by, error):
            tied.append(names[first])
        else:
            tied.append(None)
            # After a confirmation only the first is compared with.
            first = i if first is None or "scores" not in columns else first
    kind = "object" if "run" in ordered.columns else "Int64"
    return pd.Series(tied, index=ordered.index, dtype=kind)


def _is_noise(one: Mapping[Hashable, Any], other: Mapping[Hashable, Any], by: str, error: str) -> bool:
    """Return whether two scores differ by less than the noise; a trial without an error has none."""
    if one["degenerate"] != other["degenerate"]:
        return False
    if "scores" in other:
        return p_of_difference(one["scores"], other["scores"]) >= _LEVEL
    noise = math.hypot(one[error], other[error])
    return bool(abs(one[by] - other[by]) < _QUANTILE * noise)


def _on_front(ranked: pd.DataFrame, second: str, more_is_better: bool) -> list[bool]:
    """Return for each trial whether it is completed and on the Pareto front of both objectives.

    Stopped trials are left out: their training was shorter, and so was their time.
    """
    completed = ranked["state"] == TrialState.COMPLETED
    sign = -1.0 if more_is_better else 1.0
    scores = ranked[score_columns(ranked)[0]] + ABOVE_ALL * ranked["degenerate"].astype(
        "Float64"
    ).fillna(0)
    points = list(zip(scores.astype(float), sign * ranked[second], completed, strict=True))
    return [
        bool(
            done
            and p1 == p1
            and p2 == p2
            and not any(
                other_done and o1 <= p1 and o2 <= p2 and (o1, o2) != (p1, p2)
                for o1, o2, other_done in points
            )
        )
        for p1, p2, done in points
    ]


def best_trial(ranked: pd.DataFrame) -> pd.Series:
    """Return the row of the best trial.

    Args:
        ranked: What `rank` returns.

    Raises:
        SweepFailedError: if no trial is ranked, with the states counted.
    """
    if ranked.empty or pd.isna(ranked["rank"].iloc[0]):
        counts = ", ".join(f"{n} {state}" for state, n in ranked["state"].value_counts().items())
        causes = ranked["cause"][ranked["cause"] != ""].value_counts()
        listed = [f"{n} of {cause}" for cause, n in causes.head(_MOST_CAUSES).items()]
        listed += [f"{len(causes) - _MOST_CAUSES} others"] if len(causes) > _MOST_CAUSES else []
        why = f"; causes: {', '.join(listed)}" if listed else ""
        raise SweepFailedError(f"no trial can be ranked ({counts or 'none has started'}){why}")
    return ranked.iloc[0]


@dataclass(frozen=True)
class Choice:
    """The best configuration of a run.

    Attributes:
        trial: Its trial in the run.
        rule: What chose it, in words.
        is_confirmed: Whether it is by several seeds.
    """

    trial: int
    rule: str
    is_confirmed: bool


def choose(run: Path) -> Choice:
    """Return the best configuration of a run: by the seeds of its confirmation where that is complete.

    Raises:
        RunFolderError: if the folder is no run folder.
        SweepFailedError: if no trial is ranked.
    """
    confirmed, trials = load_confirmation(run), load_results(run)
    ranked = rank(trials)
    is_whole = confirmed is not None and not confirmed.num_left
    # One that is older than the last trials of the run has not seen them.
    if (
        confirmed
        and is_whole
        and confirmed.num_ended >= num_ended(trials)
        and _has_winner(confirmed, ranked)
    ):
        first = confirmed.table.iloc[0]
        return Choice(
            int(first["trial"]),
            f"by the mean of {first['seeds']} seeds, {first['mean']:.6g} "
            f"({first['low']:.4g} to {first['high']:.4g}), best with probability {first['p_best']:.2f}"
            + (f", by {confirmed.instrument}" if confirmed.instrument else ""),
            is_confirmed=True,
        )
    best = best_trial(ranked)
    number = int(best["trial"])
    tied = ", ".join(map(str, ranked[ranked["tied_with"] == number]["trial"]))
    return Choice(
        number,
        f"by its best fid_proxy, {best['best_fid_proxy']:.6g} at iteration {best['best_iteration']}, "
        "of one seed"
        + (f", by {best['instrument']}" if best["instrument"] else "")
        + ("; its samples are degenerate" if best["degenerate"] else "")
        + (f"; tied with {tied} in the noise of the score" if tied else ""),
        is_confirmed=False,
    )


def num_ended(trials: pd.DataFrame) -> int:
    """Return how many trials have ended, in whatever state."""
    return int((~trials["state"].isin([TrialState.RUNNING, TrialState.PENDING])).sum())


def _has_winner(confirmed: Confirmed, ranked: pd.DataFrame) -> bool:
    """Return whether the first was scored, and is still a trial of the run."""
    known = ranked[ranked["rank"].notna()]["trial"]
    first = confirmed.table.iloc[0]
    return bool(first["seeds"]) and bool((known == first["trial"]).any())


def best_trial_folder(run: Path) -> Path:
    """Return the folder of a sweep's best trial, as `choose` finds it.

    Raises:
        RunFolderError: if the folder is no run folder.
        SweepFailedError: if no trial is ranked.
    """
    return trial_folder(run, choose(run).trial)


def gain_over_default(ranked: pd.DataFrame) -> Gain | None:
    """Return the gain of the best trial over trial 0, or None where that has no honest score."""
    is_honest = ranked["rank"].notna() & ~ranked["degenerate"].fillna(value=True)
    default = ranked[(ranked["trial"] == 0) & is_honest]
    if default.empty:
        return None
    by, _ = score_columns(ranked)
    return Gain(float(default[by].iloc[0]), float(ranked[by].iloc[0]))


def searched_fields(trials: pd.DataFrame) -> list[str]:
    """Return the columns that are searched fields."""
    others = ("rank", "tied_with", "pareto", "run", *RULE_COLUMNS, *COLUMNS, *SECOND_OBJECTIVES)
    return [column for column in trials.columns if column not in others]

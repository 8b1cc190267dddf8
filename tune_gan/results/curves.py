"""Learning curves of a run's trials, and whether early stopping was right."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tune_gan.results.load import load_results
from tune_gan.results.reports import best_so_far, load_reports
from tune_gan.results.trials import TrialState, read_sweep, read_trials

# Where scores are compared with the final one when there was no scheduler.
_SHARES = (0.05, 0.1, 0.2, 0.5)
_NUM_BOOTSTRAPS = 1000
_LEAST_TRIALS = 5
# What the columns of `early_and_final` say.
COLUMN_NOTES = (
    "share: of the training; stopped: by the scheduler at this rung; finished: trials that came to "
    "their end; rho, tau: rank correlation of their best scores until here and until the end, low to "
    "high its 95 % interval; place: that of the final winner at this rung"
)


def learning_curves(run: Path) -> pd.DataFrame:
    """Return every report of a run with the best score of its trial until then.

    Returns:
        ``trial, iteration, fid_proxy, degenerate, best_so_far``, the last as `fid_proxy`, 1,000,000
        higher where all samples until then were degenerate.

    Raises:
        RunFolderError: if the folder is no run folder.
    """
    reports = load_reports(run)
    table: pd.DataFrame = reports[["trial", "iteration", "fid_proxy", "degenerate"]]
    return table.assign(best_so_far=best_so_far(reports))


def rungs(spec: Mapping[str, Any]) -> list[int]:
    """Return the iterations at which a sweep's scheduler judges trials.

    Without one they are the reports next to 5, 10, 20 and 50 % of the training.

    Args:
        spec: What `read_sweep` returns.
    """
    total, every = int(spec["gan"]["num_iterations"]), int(spec["gan"].get("report_every", 1))
    given = spec.get("scheduler")
    scheduler = given if isinstance(given, Mapping) else {}
    if scheduler.get("name") != "asha":
        near = [max(every, round(share * total / every) * every) for share in _SHARES]
        return sorted({iteration for iteration in near if iteration < total})
    grace, factor = scheduler.get("grace_period"), scheduler.get("reduction_factor", 3)
    evaluations = float(grace or max(2, math.ceil(0.1 * total / every)))
    found: list[int] = []
    # What a stranger wrote need not grow.
    while evaluations * every < total and (not found or factor > 1):
        found.append(math.ceil(evaluations) * every)
        evaluations *= factor
    return found


def early_and_final(run: Path) -> pd.DataFrame:
    """Return how far scores at each rung ordered trials as their final scores did.

    Of trials that came to their last iteration alone, since of no other the final score is known. Where
    a scheduler stopped the rest these are the ones that it took for good, which makes the correlation
    lower than over all; a sweep without a scheduler says what one would have done.

    Returns:
        A row a rung: ``iteration``, its ``share`` of the training, how many trials were ``stopped``
        there, how many ``finished`` and were measured there, Spearman's ``rho`` between their best
        scores up to the rung and up to their end with its bootstrap 95 % interval, ``low`` to
        ``high``, Kendall's ``tau``, and the ``place`` that the trial with the best final score had at
        the rung. Missing under 5 trials.

    Raises:
        RunFolderError: if the folder is no run folder.
    """
    spec, trials = read_sweep(run), read_trials(run)
    reports = load_reports(run, trials)
    curves = reports.assign(best=best_so_far(reports)).pivot(
        index="trial", columns="iteration", values="best"
    )
    finished = [
        t.number for t in trials if t.state == TrialState.COMPLETED and t.number in curves.index
    ]
    last = reports.groupby("trial")["iteration"].max()
    by_scheduler = [t.number for t in trials if t.cause == "scheduler" and t.number in last.index]
    total = int(spec["gan"]["num_iterations"])
    rows = []
    for rung in rungs(spec):
        row = {"iteration": rung, "share": rung / total}
        row["stopped"] = int((last.loc[by_scheduler] == rung).sum())
        early = curves.loc[finished, rung] if rung in curves.columns else pd.Series(dtype=float)
        final = curves.loc[finished].min(axis=1)
        rows.append({**row, **_agreement(early.dropna(), final)})
    columns = ["iteration", "share", "stopped", "finished", "rho", "low", "high", "tau", "place"]
    return pd.DataFrame(rows, columns=columns).astype({"place": "Int64"})


def _agreement(early: pd.Series, final: pd.Series) -> dict[str, Any]:
    final = final.loc[early.index]
    row: dict[str, Any] = {"finished": len(early)}
    if len(early) < _LEAST_TRIALS:
        return row
    first, second = early.rank().to_numpy(), final.rank().to_numpy()
    source = np.random.default_rng(0)
    draws = []
    for chosen in source.integers(len(first), size=(_NUM_BOOTSTRAPS, len(first))):
        draws.append(_spearman(first[chosen], second[chosen]))
    low, high = np.nanquantile(draws, [0.025, 0.975])
    place = int((early < early.iloc[int(final.to_numpy().argmin())]).sum()) + 1
    return {
        **row,
        "rho": early.corr(final, method="spearman"),
        "low": low,
        "high": high,
        "tau": early.corr(final, method="kendall"),
        "place": place,
    }


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of ranks, missing where all are equal."""
    first, second = pd.Series(first).rank().to_numpy(), pd.Series(second).rank().to_numpy()
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / norm) if norm else float("nan")


def verdict(run: Path) -> str:
    """Say in a line whether early stopping was right, as far as the run can tell."""
    table, states = early_and_final(run), load_results(run)
    stopped = int((states["cause"] == "scheduler").sum())
    judged = table[table["rho"].notna()]
    if judged.empty:
        finished = int((states["state"] == TrialState.COMPLETED).sum())
        if table.empty:
            return "trials report but at their end, so that there is nothing to compare it with"
        return (
            f"{finished} trials came to their end, which says nothing: {_LEAST_TRIALS} with different "
            "scores are the least"
        )
    first = judged.iloc[0]
    return (
        f"at iteration {first['iteration']:.0f} the order of the {first['finished']:.0f} trials that "
        f"came to their end agreed with the final one by rho {first['rho']:.2f} "
        f"({first['low']:.2f} to {first['high']:.2f}), and the best in the end was in place "
        f"{first['place']:.0f}; " + f"the scheduler stopped {stopped or 'none'}"
    )

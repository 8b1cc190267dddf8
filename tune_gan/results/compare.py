"""How sweeps compare at equal cost."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tune_gan.errors import ConfigError, IncomparableError
from tune_gan.results.load import load_results
from tune_gan.results.ranking import rank
from tune_gan.results.reports import load_reports
from tune_gan.results.trials import ABOVE_ALL, TrialState, read_sweep, read_trials

_NUM_POINTS = 10
_NUM_BOOTSTRAPS = 2000
# A bootstrap of fewer is too sure of itself.
_LEAST_REPEATS = 5
_BROKEN = (TrialState.COLLAPSED, TrialState.DIVERGED, TrialState.FAILED)
_ENDED = (TrialState.COMPLETED, TrialState.STOPPED, *_BROKEN)


def best_by_cost(run: Path) -> pd.DataFrame:
    """Return the best score of a run as it was reached.

    Returns:
        A row a report, in the order in which they were made: ``iterations``, spent by all trials until
        then; ``seconds`` since the first report's training began, stops of the sweep included, missing
        for runs of version 0.2.0 and earlier, whose reports are taken trial by trial; and ``best``, the
        lowest `fid_proxy` until then, missing before the first honest one; that of trials that
        collapsed, diverged or failed does not count.

    Raises:
        RunFolderError: if the folder is no run folder.
    """
    trials = read_trials(run)
    reports = load_reports(run, trials)
    if len(reports) and reports["reported_at"].notna().all():
        reports = reports.sort_values(["reported_at", "trial", "iteration"], ignore_index=True)
    steps = reports.groupby("trial")["iteration"].diff().fillna(reports["iteration"])
    # What broke off is ranked nowhere, whatever it scored before.
    broken = [trial.number for trial in trials if trial.state in _BROKEN]
    scores = reports["ranking_score"].where(~reports["trial"].isin(broken))
    seconds = reports["reported_at"] - (reports["reported_at"] - reports["time_s"]).min()
    best = scores.cummin().ffill()
    return pd.DataFrame(
        {
            "iterations": steps.cumsum().astype("int64"),
            "seconds": seconds,
            "best": best.where(best < ABOVE_ALL),
        }
    )


def groups(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Return runs by name, those that repeat one sweep with another seed together.

    Raises:
        ConfigError: if one is named twice.
    """
    if len({run.absolute() for run in runs}) < len(runs):
        raise ConfigError(f"a run is named twice: {', '.join(map(str, runs))}; name each once")
    repeats: list[tuple[dict[str, Any], list[Path]]] = []
    for run in runs:
        spec = _without_seed(read_sweep(run))
        known = next((folders for other, folders in repeats if other == spec), None)
        if known is None:
            repeats.append((spec, [run]))
        else:
            known.append(run)
    names = [folders[0].absolute().name for _, folders in repeats]
    if len(set(names)) < len(names):
        names = [str(folders[0]) for _, folders in repeats]
    return {name: folders for name, (_, folders) in zip(names, repeats, strict=True)}


def _without_seed(spec: Mapping[str, Any]) -> dict[str, Any]:
    given = spec.get("search")
    settings = given if isinstance(given, Mapping) else {}
    search = {name: value for name, value in settings.items() if name != "seed"}
    # Where data and the weights of a score lie may differ from machine to machine.
    free = ("seed", "data_root", "weights")
    gan = {name: value for name, value in spec["gan"].items() if name not in free}
    known = {name: value for name, value in spec.items() if name != "tracker"}
    return {**known, "search": search, "gan": gan}


def compare(runs: Sequence[Path], by: str = "iterations") -> pd.DataFrame:
    """Return the best score of sweeps at equal cost.

    Args:
        runs: Runs; those whose sweeps differ by their seed alone are repeats of one.
        by: The cost, ``iterations`` of all trials together or ``seconds``.

    Returns:
        A row for each sweep and each tenth of the least cost that all runs have spent: the cost,
        ``sweep``, ``repeats``, ``best``, with repeats the interquartile mean (Agarwal et al. 2021,
        https://arxiv.org/abs/2108.13264), and from 5 repeats on ``low`` and ``high``, its bootstrap
        95 % interval. Missing before the first honest score.

    Raises:
        IncomparableError: if scores were measured with different instruments, or times are not known.
        RunFolderError: if one is no run folder.
    """
    _require_comparable(runs)
    curves = {run: best_by_cost(run) for run in runs}
    for run, curve in curves.items():
        if curve[by].isna().any() or curve.empty:
            if curve.empty:
                raise IncomparableError(f"{run} has no reports yet; leave it out")
            raise IncomparableError(
                f"{run} has no times in its reports; compare it by iterations, or leave it out"
            )
    least = min(float(curve[by].iloc[-1]) for curve in curves.values())
    rows = []
    for cost in np.linspace(0, least, _NUM_POINTS + 1)[1:]:
        for name, repeats in groups(runs).items():
            reached = [curves[run][curves[run][by] <= cost]["best"].min() for run in repeats]
            low, best, high = _interquartile_mean(np.array(reached, dtype=float))
            cells = {"best": best, "low": low, "high": high}
            rows.append({by: float(f"{cost:.6g}"), "sweep": name, "repeats": len(repeats), **cells})
    return pd.DataFrame(rows)


def _require_comparable(runs: Sequence[Path]) -> None:
    # Says which instruments, if they are several.
    rank(pd.concat([load_results(run) for run in runs], ignore_index=True))
    lengths = {int(read_sweep(run)["gan"]["num_iterations"]) for run in runs}
    if len(lengths) > 1:
        listed = ", ".join(map(str, sorted(lengths)))
        raise IncomparableError(
            f"the runs train for different numbers of iterations ({listed}); compare runs of one"
        )


def _interquartile_mean(values: np.ndarray) -> tuple[float, float, float]:
    """Return the interquartile mean between both ends of its interval; a missing value is missing."""
    if np.isnan(values).any():
        return math.nan, math.nan, math.nan
    # Imported here, since it takes a second.
    from scipy import stats

    middle = float(stats.trim_mean(values, 0.25))
    if len(values) < _LEAST_REPEATS:
        return math.nan, middle, math.nan
    drawn = np.random.default_rng(0).choice(values, (_NUM_BOOTSTRAPS, len(values)))
    low, high = np.quantile(stats.trim_mean(drawn, 0.25, axis=1), [0.025, 0.975])
    return float(low), middle, float(high)


def attainable(runs: Sequence[Path]) -> pd.DataFrame:
    """Return the lowest score that k trials of a sweep attain, over re-draws of which k.

    As the minimum attainable score of 'GAN Landscape' (Kurach et al. 2019,
    https://arxiv.org/abs/1807.04720), with all draws instead of a sample of them: the i-th best of n
    is the best of k with probability C(n - i, k - 1) / C(n, k). It is what to expect of independent
    draws, as those of random search are; TPE's later trials are better than its first ones.

    A trial that diverged, collapsed, failed or was degenerate counts as the worst that has an honest
    score.

    Returns:
        A row for each sweep and k = 1, 2, 4, ... to the number of its trials that ended: ``k``,
        ``sweep``, the ``expected`` lowest score, and ``low`` and ``high``, between which it is in 80 %
        of the draws. None for a sweep without an honest score.
    """
    _require_comparable(runs)
    rows = []
    for name, repeats in groups(runs).items():
        tables = [load_results(run) for run in repeats]
        table = pd.concat(tables, ignore_index=True)
        table = table[table["state"].isin(_ENDED)]
        is_ranked = table["state"].isin([TrialState.COMPLETED, TrialState.STOPPED])
        is_honest = is_ranked & ~table["degenerate"].fillna(value=True).astype(bool)
        honest = table["best_fid_proxy"].where(is_honest)
        scores = honest.fillna(honest.max()).dropna().to_numpy(dtype=float)
        for count in _powers_of_two(len(scores)):
            expected, low, high = lowest_of(scores, count)
            rows.append({"k": count, "sweep": name, "expected": expected, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["k", "sweep", "expected", "low", "high"])


def lowest_of(scores: np.ndarray, count: int) -> tuple[float, float, float]:
    """Return the expected lowest of some of the scores, and its 10 % and 90 % quantile.

    Args:
        scores: All of them.
        count: How many are drawn, without replacement.
    """
    ordered, num = np.sort(scores), len(scores)
    # The i-th lowest is the lowest of those drawn if all others are from behind it.
    ratios = [(num - count - i) / (num - 1 - i) for i in range(num - 1)]
    odds = count / num * np.cumprod([1.0, *ratios])
    low, high = (
        float(ordered[min(num - 1, int(np.searchsorted(np.cumsum(odds), q)))]) for q in (0.1, 0.9)
    )
    return float(odds @ ordered), low, high


def _powers_of_two(limit: int) -> list[int]:
    found = [2**i for i in range(limit.bit_length()) if 2**i < limit]
    return [*found, limit] if limit else []


def beside(table: pd.DataFrame, cost: str, value: str) -> pd.DataFrame:
    """Return a table of sweeps with a column each: what they reached at each cost, with its range."""
    cells = [
        "" if math.isnan(row[value]) else _with_range(row[value], row["low"], row["high"])
        for row in table.to_dict("records")
    ]
    wide = table.assign(cell=cells).pivot(index=cost, columns="sweep", values="cell")
    return wide[list(dict.fromkeys(table["sweep"]))].fillna("").reset_index().rename_axis(columns=None)


def _with_range(value: float, low: float, high: float) -> str:
    if math.isnan(low):
        return f"{value:.4g}"
    return f"{value:.4g} ({low:.4g} to {high:.4g})"

"""Rank the trials of one run or several, by which of their scores, and which of them."""

import ast
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tune_gan.errors import ConfigError
from tune_gan.results.confirmed import load_confirmation
from tune_gan.results.load import load_results
from tune_gan.results.ranking import rank
from tune_gan.results.reports import best_reports, last_reports, load_reports
from tune_gan.results.trials import TrialState

_RANKED = (TrialState.COMPLETED, TrialState.STOPPED)
VALID_RULES = "best, last, mean-of-last-K (K from 2), common-budget, confirmed"


@dataclass(frozen=True)
class Rule:
    """A rule of ranking.

    Attributes:
        kind: ``best``, the lowest score of a trial; ``last``, that of its last report;
            ``mean-of-last``, the mean of its last reports; ``common-budget``, its lowest up to the
            iteration that all ranked trials have reached; ``confirmed``, the mean over fresh seeds.
        count: How many reports the mean is of.
    """

    kind: str = "best"
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Read the name of a rule.

        Raises:
            ConfigError: for another one.
        """
        match = re.fullmatch(r"mean-of-last-(\d{1,6})", text)
        if match and int(match[1]) >= 2:
            return cls("mean-of-last", int(match[1]))
        if text not in ("best", "last", "common-budget", "confirmed"):
            raise ConfigError(f"--rule takes one of {VALID_RULES}, not {text!r}")
        return cls(text)

    def describe(self, common: int) -> str:
        """Say in words what a trial's score is.

        Args:
            common: The iteration that all ranked trials have reached.
        """
        return {
            "best": "the lowest fid_proxy of a trial",
            "last": "the fid_proxy of its last report",
            "mean-of-last": f"the mean fid_proxy of its last {self.count} reports, or of all it has",
            "common-budget": f"the lowest fid_proxy up to iteration {common}, which all have reached",
            "confirmed": "the mean fid_proxy over fresh seeds",
        }[self.kind]


def by_rule(trials: pd.DataFrame, run: Path, rule: Rule, common: int | None = None) -> pd.DataFrame:
    """Add what a rule ranks trials by.

    Args:
        trials: What `tune_gan.load_results` returns of the run, or some of its rows.
        run: The run folder.
        rule: The rule.
        common: The iteration up to which scores count by ``common-budget``; by default that which all
            ranked ones of these trials have reached.

    Returns:
        The table with ``score`` and ``score_se``, its standard error, missing where the rule has none,
        and ``degenerate`` of the reports behind it; for ``confirmed`` also ``scores``, one for each
        seed. Unchanged for ``best``.

    Raises:
        ConfigError: for ``confirmed`` without a whole confirmation.
    """
    if rule.kind == "best":
        return trials
    if rule.kind == "confirmed":
        return _by_confirmation(trials, run)
    reports = load_reports(run)
    reports = reports[reports["trial"].isin(trials["trial"])]
    if rule.kind == "mean-of-last":
        scores = _means(reports, rule.count)
    else:
        if rule.kind == "common-budget":
            common = _common_iteration(trials) if common is None else common
            reports = reports[reports["iteration"] <= common]
        chosen = last_reports(reports) if rule.kind == "last" else best_reports(reports)
        scores = chosen[["fid_proxy", "fid_proxy_se", "degenerate"]]
    scores = scores.set_axis(["score", "score_se", "degenerate"], axis=1)
    joined = trials.drop(columns="degenerate").join(scores, on="trial")
    return joined.astype({"degenerate": "boolean"})[[*trials.columns, "score", "score_se"]]


def _common_iteration(trials: pd.DataFrame) -> int:
    """Return the iteration that all ranked trials have reached; 0 without one."""
    reached = trials[trials["state"].isin(_RANKED)]["iteration"].min()
    return 0 if pd.isna(reached) else int(reached)


def _means(reports: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the mean of the last scores, its standard error, and whether one is degenerate."""
    groups = reports.groupby("trial").tail(count).groupby("trial")
    # The draws of samples are the same latents at every report, so that their errors do not average.
    return pd.DataFrame(
        {
            "mean": groups["fid_proxy"].mean(),
            "error": groups["fid_proxy_se"].mean(),
            "degenerate": groups["degenerate"].any(),
        }
    )


def _by_confirmation(trials: pd.DataFrame, run: Path) -> pd.DataFrame:
    confirmed = load_confirmation(run)
    if confirmed is None or confirmed.num_left:
        stand = "was not confirmed" if confirmed is None else "is not confirmed to the end"
        raise ConfigError(f"{run} {stand}; run `tune-gan confirm` first, or take another rule")
    table = confirmed.table.set_index("trial")
    # The mean of those that lost a seed is of the lucky ones.
    whole = table[(table["lost"] == 0) & (table["seeds"] > 1)]
    errors = [float(np.std(scores, ddof=1)) / math.sqrt(len(scores)) for scores in whole["scores"]]
    found = whole[["mean", "scores"]].rename(columns={"mean": "score"}).assign(score_se=errors)
    joined = trials.join(found[["score", "score_se", "scores"]], on="trial")
    return joined.assign(degenerate=joined["degenerate"] & joined["score"].isna())


def rank_runs(runs: Sequence[Path], rule: Rule, where: str | None = None) -> pd.DataFrame:
    """Rank the trials of one run or of several together.

    Args:
        runs: Run folders.
        rule: By which score.
        where: Which trials, as `pandas.DataFrame.query` takes it, by the columns of `load_results`,
            e.g. ``best_fid_proxy < 10 and state == "completed"``; by default all.

    Returns:
        What `tune_gan.results.ranking.rank` returns, with what its ``score`` is in ``attrs["score"]``;
        of several runs with a column ``run``, a folder's
        name, and ``tied_with`` as ``run:trial``.

    Raises:
        ConfigError: if the condition cannot be read, or the rule cannot be followed.
        IncomparableError: if trials were scored with different instruments.
        RunFolderError: if one is no run folder.
    """
    names = [run.absolute().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"a run is named twice: {', '.join(map(str, runs))}; name each once")
    tables = []
    for name, run in zip(names, runs, strict=True):
        table = load_results(run)
        if len(runs) > 1:
            table.insert(0, "run", name)
        tables.append(_chosen(table, where))
    common = _common_iteration(pd.concat(tables))
    tables = [by_rule(table, run, rule, common) for table, run in zip(tables, runs, strict=True)]
    ranked = rank(pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0])
    ranked.attrs["score"] = rule.describe(common)
    return ranked


def _chosen(trials: pd.DataFrame, where: str | None) -> pd.DataFrame:
    if where is None:
        return trials
    columns = ", ".join(trials.columns)
    try:
        for part in ast.walk(ast.parse(where.strip(), mode="eval")):
            if isinstance(part, ast.Call | ast.Attribute | ast.Subscript):
                raise ValueError("it calls something")
        holds = trials.eval(where, engine="python")
    # What pandas raises for a text that is no condition is of many kinds.
    except Exception as error:
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        reason = " ".join(said.split())[:200] or type(error).__name__
        raise ConfigError(
            f"--where {where!r} cannot be read ({reason}); compare columns with values, as in "
            f"'best_fid_proxy < 10 and state == \"completed\"'; columns: {columns}"
        ) from None
    if not isinstance(holds, pd.Series) or not pd.api.types.is_bool_dtype(holds):
        raise ConfigError(
            f"--where {where!r} is no condition; compare a column with a value; columns: {columns}"
        )
    # What is missing does not fulfil it.
    chosen = trials[holds.fillna(value=False).astype(bool)]
    return chosen.reset_index(drop=True)

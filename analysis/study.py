"""What did a sweep find, and what did it cost? ``python -m analysis.study RUN [OTHER ...]``.

Prints, for each run: its best score and what was spent on it; which hyperparameters mattered; and,
where ``tune-gan confirm`` was run, the gain over the default with its interval, and the spread over
seeds.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial
from scipy import stats

from tune_gan.results.confirmed import load_confirmation
from tune_gan.results.load import load_results
from tune_gan.results.ranking import rank
from tune_gan.results.trials import ListedTrial, TrialState, read_sweep, read_trials
from tune_gan.search.space import Distribution
from tune_gan.search.spec import SweepSpec

_LEAST_TRIALS = 30
_NUM_BOOTSTRAPS = 30


def costs(runs: Sequence[Path]) -> pd.DataFrame:
    """Return what runs found and what they spent, a row a run.

    Returns:
        ``best`` score and ``default``, that of trial 0; ``trials`` begun and how many were ``stopped``
        by the scheduler; ``iterations`` spent; and ``saved``, the share of what all these trials would
        have taken to their last iteration.
    """
    rows = []
    tables = [load_results(run) for run in runs]
    # Refuses scores that do not compare.
    rank(pd.concat(tables))
    for run, table in zip(runs, tables, strict=True):
        ranked = rank(table)
        whole = len(table) * read_sweep(run)["gan"]["num_iterations"]
        spent = int(table["iteration"].fillna(0).sum())
        rows.append(
            {
                "run": run.name,
                "best": ranked["best_fid_proxy"].iloc[0],
                "default": table["best_fid_proxy"].iloc[0],
                "trials": len(table),
                "stopped": int((table["cause"] == "scheduler").sum()),
                "iterations": spent,
                "saved": 1 - spent / whole,
            }
        )
    return pd.DataFrame(rows).set_index("run")


def importances(runs: Sequence[Path]) -> tuple[pd.DataFrame, int]:
    """Return the share of the variance of log10 scores that each hyperparameter explains by itself.

    By fANOVA (Hutter et al. 2014, https://proceedings.mlr.press/v32/hutter14.html) as Optuna has it.
    Scores compare at equal training lengths alone, so that of a trial is its best up to the last
    iteration that all have reached: the last of all without a scheduler, else the first rung's. Trials
    that diverged or failed are left out, and so are fields that only some trials have.

    Args:
        runs: Runs that search the same space.

    Returns:
        A row a field: the median ``share`` over 30 bootstrap samples of the trials, and the range of
        the middle 80 %, ``low`` to ``high``. The field ``noise`` is a random number: what is not
        clearly above it has not been shown to matter. Empty under 30 trials, which are too few to say.
        Then the iteration.
    """
    states = (TrialState.COMPLETED, TrialState.STOPPED, TrialState.COLLAPSED)
    trials = [trial for run in runs for trial in read_trials(run) if trial.state in states]
    iteration = min((trial.reports[-1]["iteration"] for trial in trials), default=0)
    if len(trials) < _LEAST_TRIALS:
        return pd.DataFrame(columns=["share", "low", "high"]), iteration
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = SweepSpec.from_yaml(runs[0] / "sweep.yaml").space
    points = [_point(trial, space, iteration) for trial in trials]
    source = np.random.default_rng(0)
    shares = pd.DataFrame([_shares(points, source) for _ in range(_NUM_BOOTSTRAPS)])
    table = shares.quantile([0.5, 0.1, 0.9]).T
    table.columns = pd.Index(["share", "low", "high"])
    return table.sort_values("share", ascending=False), iteration


def _point(trial: ListedTrial, space: Mapping[str, Distribution], iteration: int) -> FrozenTrial:
    inside = {name: v for name, v in trial.values.items() if name in space and space[name].contains(v)}
    score = min(r["fid_proxy"] for r in trial.reports if r["iteration"] <= iteration)
    distributions = {name: space[name].to_optuna() for name in inside}
    return create_trial(value=math.log10(score), params=inside, distributions=distributions)


def _shares(points: Sequence[FrozenTrial], source: np.random.Generator) -> dict[str, float]:
    """Return the importances in a bootstrap sample of trials, each with a field of noise added."""
    study = optuna.create_study(direction="minimize")
    for index in source.integers(len(points), size=len(points)):
        point = points[index]
        study.add_trial(
            create_trial(
                value=point.value,
                params={**point.params, "noise": source.random()},
                distributions={**point.distributions, "noise": FloatDistribution(0, 1)},
            )
        )
    seed = int(source.integers(2**31))
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))


def gains(run: Path) -> pd.DataFrame | None:
    """Return the gain of confirmed configurations over the default, None where that was not confirmed.

    Returns:
        A row a configuration: ``mean`` score over seeds with its ``deviation``, ``lowest`` and
        ``highest``; ``gain``, how many times lower the geometric mean is than the default's, with
        ``low`` and ``high``, the 95 % interval by Welch's t on logarithms. Nothing for the default.
    """
    confirmed = load_confirmation(run)
    if confirmed is None:
        return None
    table = confirmed.table.set_index("trial")
    if table["seeds"][0] < 2:
        return None
    default = np.log(np.asarray(table["scores"][0]))
    rows = []
    for trial, row in table[table["seeds"] > 1].iterrows():
        own = np.log(row["scores"])
        test = stats.ttest_ind(default, own, equal_var=False)
        low, high = test.confidence_interval(0.95)
        scores = np.exp(own)
        rows.append(
            {
                "trial": trial,
                "seeds": len(own),
                "mean": scores.mean(),
                "deviation": scores.std(ddof=1),
                "lowest": scores.min(),
                "highest": scores.max(),
                **({} if trial == 0 else {"gain": math.exp(default.mean() - own.mean())}),
                **({} if trial == 0 else {"low": math.exp(low), "high": math.exp(high)}),
            }
        )
    return pd.DataFrame(rows).set_index("trial")


def all_reports(run: Path) -> pd.DataFrame:
    """Return every report of a run, a row each, with its trial's state, cause and searched fields."""
    return pd.DataFrame(
        [
            {
                "trial": t.number,
                "trial_state": t.state.value,
                "trial_cause": t.cause,
                **t.values,
                **report,
            }
            for t in read_trials(run)
            for report in t.reports
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what the run folders that the command line names found."""
    parser = argparse.ArgumentParser(description="What sweeps found, and what they cost.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a sweep")
    parser.add_argument("--parquet", type=Path, help="folder to keep all reports in, a file a run")
    options = parser.parse_args(arguments)
    print(costs(options.runs).to_string(float_format="%.3g"))
    mattered, iteration = importances(options.runs)
    print(
        f"\nwhat mattered to fid_proxy at iteration {iteration}: share of the variance of its log10\n"
    )
    if mattered.empty:
        print(f"fewer than {_LEAST_TRIALS} trials are too few to say")
    else:
        print(mattered.to_string(float_format="%.2f"))
    for run in options.runs:
        if (table := gains(run)) is not None:
            print(f"\n{run.name}: confirmed\n")
            print(table.to_string(float_format="%.4g", na_rep=""))
        if options.parquet is not None:
            options.parquet.mkdir(parents=True, exist_ok=True)
            for part in (run, run / "confirm"):
                if (part / "trials.jsonl").is_file():
                    name = run.name if part == run else f"{run.name}-confirm"
                    all_reports(part).to_parquet(
                        options.parquet / f"{name}.parquet", compression="zstd"
                    )


if __name__ == "__main__":
    main()

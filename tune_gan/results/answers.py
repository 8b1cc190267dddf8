"""Print the answers to questions about runs: a table, and in words what it says."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from tune_gan.errors import ConfigError
from tune_gan.results.compare import attainable, beside, compare, groups
from tune_gan.results.curves import COLUMN_NOTES, early_and_final, learning_curves, verdict
from tune_gan.results.formats import Format, plain, print_table, records
from tune_gan.results.importance import NOISE, Importance, Method, importance
from tune_gan.results.losses import load_losses, require_losses
from tune_gan.results.seeds import seed_noise

# Of a table on a terminal, in all and of a trial.
_MOST_ROWS, _MOST_ROWS_OF_A_TRIAL = 1000, 20
_COSTS = ("iterations", "seconds", "trials")
_MEANING = {
    Method.PED_ANOVA: "which asks what sets the best tenth apart",
    Method.FANOVA: "which asks what moves the scores of all, degenerate or not",
}


def print_importance(runs: Sequence[Path], method: str, form: Format) -> None:
    """Print which hyperparameters mattered.

    Raises:
        ConfigError: for an unknown method, or too few trials.
        IncomparableError: if the runs do not compare.
    """
    if method not in list(Method):
        raise ConfigError(f"--method takes {' or '.join(Method)}, not {method!r}")
    found = importance(runs, Method(method))
    if form == Format.JSON:
        values = {
            "method": found.method,
            "iteration": found.iteration,
            "trials": found.num_trials,
            "left_out": found.left_out,
            "fields": records(found.table),
            "pairs": records(found.pairs),
        }
        print(json.dumps(values, indent=2))
        return
    print_table(found.table, form)
    if form == Format.TABLE:
        _say("", describe_importance(found))
        if len(pairs := found.pairs[found.pairs["matters"]]):
            _say("", "pairs that explain more than their fields alone:", "")
            print_table(pairs.drop(columns="matters"), form)
        else:
            _say("no pair of fields explains more than noise over what its fields do alone")


def describe_importance(found: Importance) -> str:
    """Say in a line what mattered, and how that was measured."""
    fields = found.table[found.table["matters"]]["field"]
    above = ", ".join(fields) if len(fields) else "nothing"
    return (
        f"clearly above {NOISE}: {above}; by {found.method} of {found.num_trials} trials at iteration "
        f"{found.iteration}, {_MEANING[found.method]}; share: of the importance of all fields, low to "
        "high the middle 80 % of bootstrap samples"
        + (f"; not every trial has {', '.join(found.left_out)}" if found.left_out else "")
    )


def print_comparison(runs: Sequence[Path], by: str, form: Format) -> None:
    """Print how sweeps compare at equal cost.

    Raises:
        ConfigError: for an unknown cost.
        IncomparableError: if the runs do not compare.
    """
    if by not in _COSTS:
        raise ConfigError(f"--by takes one of {', '.join(_COSTS)}, not {by!r}")
    is_by_trials = by == "trials"
    table = attainable(runs) if is_by_trials else compare(runs, by)
    cost, value = ("k", "expected") if is_by_trials else (by, "best")
    wide = form in (Format.TABLE, Format.MARKDOWN)
    print_table(beside(table, cost, value) if wide else table, form)
    if form == Format.TABLE:
        _say("", _describe_comparison(table, is_by_trials))
        for name, repeats in groups(runs).items():
            if len(repeats) > 1:
                listed = ", ".join(map(str, repeats))
                _say(f"{name}: {len(repeats)} runs that differ by their seed, {listed}")


def _describe_comparison(table: pd.DataFrame, is_by_trials: bool) -> str:
    if is_by_trials:
        return (
            "the lowest fid_proxy to expect of k trials drawn from those of the sweep, "
            "and in which range it is in 80 % of the draws; one that diverged, collapsed or was "
            "degenerate counts as the worst honest one, and few of these may lift the mean above it"
        )
    repeated = bool((table["repeats"] > 1).any())
    return "the lowest fid_proxy so far, lower is better" + (
        "; over repeats the interquartile mean, with its bootstrap 95 % interval from 5 on"
        if repeated
        else "; one run of each, so that a difference may be the seed's"
    )


def print_curves(run: Path, form: Format) -> None:
    """Print how far early scores agreed with the final ones."""
    print_table(early_and_final(run), form)
    if form == Format.TABLE:
        _say("", COLUMN_NOTES, "", verdict(run))


def print_learning_curves(run: Path, form: Format) -> None:
    """Print the score of every report, and the best of its trial until then."""
    print_table(learning_curves(run), form)


def print_losses(run: Path, form: Format) -> None:
    """Print the losses of every iteration; as a table those of 20 iterations of a trial at most.

    Raises:
        RunFolderError: if the folder is no run folder, or has no losses.
        StorageError: if a file of losses cannot be read.
    """
    losses = load_losses(run)
    require_losses(run, losses)
    num_shown = min(max(_MOST_ROWS // losses["trial"].nunique(), 1), _MOST_ROWS_OF_A_TRIAL)
    step = -(-int(losses["iteration"].max()) // num_shown)
    if form != Format.TABLE or step == 1:
        print_table(losses, form)
        return
    is_last = ~losses["trial"].duplicated(keep="last")
    print_table(losses[(losses["iteration"] % step == 0) | is_last], form)
    _say(
        "",
        f"every {step:,} iterations and at a trial's last one; all {len(losses):,} rows: "
        "--format csv, parquet, json or markdown",
    )


def print_seeds(run: Path, form: Format) -> None:
    """Print how much of a score is the seed's.

    Raises:
        ConfigError: if the run was not confirmed.
    """
    noise = seed_noise(run)
    if form == Format.JSON:
        values = {
            "configurations": records(noise.table),
            "share_of_variance": plain(noise.share),
            "first_by_one_seed": noise.one_seed,
        }
        print(json.dumps(values, indent=2))
        return
    print_table(noise.table, form)
    if form == Format.TABLE:
        _say("", noise.describe())


def _say(*lines: str) -> None:
    out = Console(soft_wrap=True, highlight=False, markup=False)
    for line in lines:
        out.print(line)

"""Show a ranking: as a table on a console, as JSON, as a YAML configuration."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tune_gan.results.confirmed import Confirmed, not_separable
from tune_gan.results.floor import Floor
from tune_gan.results.formats import (
    Format,
    cell,
    is_missing,
    plain,
    print_table,
    records,
    table_console,
)
from tune_gan.results.ranking import (
    best_trial,
    choose,
    gain_over_default,
    score_columns,
    searched_fields,
)
from tune_gan.results.standing import read_standing, standing_table
from tune_gan.results.trials import (
    ABOVE_ALL,
    SECOND_OBJECTIVES,
    TrialState,
    read_sweep,
    read_trials,
    trial_config,
)

_AT_WORK = [TrialState.RUNNING, TrialState.PENDING]
_WIDTH_OF_A_CAUSE = 24
_ROUNDING = 1e-9
_ANY_WIDTH = 10_000


def ranking_table(ranked: pd.DataFrame, top: int | None = None) -> Table:
    """Return a table of ranked trials.

    Args:
        ranked: What `tune_gan.results.ranking.rank` returns.
        top: How many rows to show; by default all.
    """
    fields = searched_fields(ranked)
    ranked = ranked.head(top or len(ranked))
    table = Table(box=None, pad_edge=False, header_style="bold")
    # That a stopped trial was stopped by the scheduler needs no column.
    causes = ranked["cause"].where(ranked["cause"] != "scheduler", "")
    headings = {"rank": "\nrank", **({"run": "\nrun"} if "run" in ranked.columns else {})}
    headings |= {"trial": "\ntrial", "state": "\nstate"}
    headings |= {name: f"\n{name}" for name in ("score", "score_se") if name in ranked.columns}
    headings |= {"best_fid_proxy": "best\nfid_proxy", "fid_proxy_se": "\n+-"}
    headings |= {"best_iteration": "at\niteration", "fid_proxy": "last\nfid_proxy"}
    headings |= {"iteration": "\niteration"}
    second = [name for name in (*SECOND_OBJECTIVES, "pareto") if name in ranked.columns]
    headings |= {name: f"\n{name}" for name in (*second, *fields)}
    headings |= {"cause": "\ncause"} if causes.any() else {}
    for name, heading in headings.items():
        if name in ("state", "run"):
            table.add_column(heading, no_wrap=True)
        elif name == "cause":
            table.add_column(heading, overflow="fold", min_width=_WIDTH_OF_A_CAUSE)
        elif name in ("rank", "trial"):
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            # Where the terminal is too narrow a number goes on in the next line; none is cut.
            table.add_column(heading, justify="right", overflow="fold")
    shown = ranked.assign(cause=causes, rank=_rank_cells(ranked))[list(headings)]
    for score, error in (("best_fid_proxy", "fid_proxy_se"), ("score", "score_se")):
        if error in shown.columns:
            # Of constant samples it is what rounding left.
            is_rounding = ranked[error] < _ROUNDING * ranked[score].abs()
            shown[error] = shown[error].mask(is_rounding, 0.0)
    for row in shown.itertuples(index=False):
        table.add_row(*(Text(cell(value)) for value in row))
    return table


def ranking_records(ranked: pd.DataFrame) -> list[dict[str, Any]]:
    """Return ranked trials as JSON takes them, best first; what is missing is None.

    Returns:
        For each trial ``rank, tied_with, trial, state, cause, best_fid_proxy, best_iteration,
        fid_proxy_se, degenerate, fid_proxy, iteration, instrument``, where the sweep has a
        second objective that and ``pareto``, and its searched fields under ``config``.
    """
    fields = searched_fields(ranked)
    found = []
    for row in records(ranked):
        config = {field: row.pop(field) for field in fields}
        found.append({**row, "config": config})
    return found


def best_yaml(run: Path) -> str:
    """Return the best trial's whole configuration as YAML that ``tune-gan train --config`` takes.

    Its device is ``auto``, wherever it was trained.

    Raises:
        RunFolderError: if the folder is no run folder.
        SweepFailedError: if no trial is ranked.
    """
    choice = choose(run)
    values = next(trial.values for trial in read_trials(run) if trial.number == choice.trial)
    heading = f"# trial {choice.trial} of {run.absolute().name!r}, chosen {choice.rule}\n"
    # Where it was trained is no part of what was found.
    config = trial_config(run, values).model_copy(update={"device": "auto"})
    return heading + config.to_yaml()


def status_record(run: Path, held_since: float | None = None) -> dict[str, Any]:
    """Return how far a run has come.

    Args:
        run: The run folder.
        held_since: When the sweep at work was started, in seconds since 1970; None where none is.

    Returns:
        What `tune_gan.results.standing.Standing` has, the best score as ``best_fid_proxy`` and whether
        it is ``degenerate``, both None before the first.

    Raises:
        RunFolderError: if the folder is no run folder.
    """
    standing = read_standing(run, held_since)
    record = vars(standing) | {"running": [vars(one) for one in standing.running]}
    score = record.pop("best_score")
    degenerate = None if score is None else score > ABOVE_ALL
    record["best_fid_proxy"] = score - ABOVE_ALL if degenerate else score
    config = {name: plain(value) for name, value in standing.best_config.items()}
    return {**record, "degenerate": degenerate, "best_config": config}


def print_status(run: Path, at_work: str | None, held_since: float | None, as_json: bool) -> None:
    """Print how far a run has come on the standard output.

    Args:
        run: The run folder.
        at_work: Who holds it, in words, if somebody does.
        held_since: Since when, in seconds since 1970.
        as_json: As JSON, with ``at_work`` added.
    """
    if as_json:
        print(json.dumps({**status_record(run, held_since), "at_work": at_work}, indent=2))
        return
    standing = read_standing(run, held_since)
    Console(highlight=False).print(standing_table(standing, "sweep"))
    go_on = "" if standing.num_ended == standing.num_trials else f"; {_go_on(run)} goes on"
    out = Console(soft_wrap=True, highlight=False, markup=False)
    out.print(f"at work: {at_work or 'nobody' + go_on}")


def _go_on(run: Path) -> str:
    """Return the command that goes on with a sweep or a confirmation."""
    match read_sweep(run).get("confirmation"):
        case {"top": int(top), "seeds": list(seeds)}:
            confirmed = shlex.quote(str(run.absolute().parent))
            return f"tune-gan confirm {confirmed} --top {top} --seeds {len(seeds)}"
    return f"tune-gan resume {shlex.quote(str(run))}"


def gain_line(ranked: pd.DataFrame) -> str:
    """Say in a line how much the best trial gained over the default, and what may yet be better."""
    best = best_trial(ranked)
    by, _ = score_columns(ranked)
    at_work = ranked[ranked["state"].isin(_AT_WORK)]
    ahead = at_work[(at_work[by] < best[by]) & ~at_work["degenerate"].fillna(value=True)]
    if ahead.empty:
        return _gain_so_far(ranked, best)
    first = ahead.sort_values(by).iloc[0]
    if first["trial"] == 0:
        return f"the default configuration (trial 0) has not ended, and is ahead with {first[by]:.4g}"
    return (
        f"{_gain_so_far(ranked, best)}; trial {first['trial']}, which has not ended, is ahead with "
        f"{first[by]:.4g}"
    )


def _gain_so_far(ranked: pd.DataFrame, best: pd.Series) -> str:
    is_running = ranked["state"].isin(_AT_WORK).any()
    so_far = " of those that have ended" if is_running else ""
    if best["degenerate"]:
        return (
            f"no trial{so_far} learned the data: even the best samples repeat a few or are all but of "
            "one class"
        )
    if best["trial"] == 0:
        return f"the default configuration (trial 0) is the best{so_far}"
    gain = gain_over_default(ranked)
    if gain is None:
        is_at_work = bool(((ranked["trial"] == 0) & ranked["state"].isin(_AT_WORK)).any())
        lacks = "not ended" if is_at_work else "no honest score to compare with"
        return f"the default configuration (trial 0) has {lacks}"
    default = ranked[ranked["trial"] == 0].iloc[0]
    tied = default["tied_with"] == best["trial"]
    seeds = "by the means of several seeds" if "scores" in ranked.columns else "by one seed each"
    lower = f"{gain.ratio:.1f} times lower" if math.isfinite(gain.ratio) else "lower"
    return (
        f"trial {best['trial']} scores {gain.best:.4g} where the default configuration (trial 0) "
        f"scores {gain.default:.4g}: {lower}, {seeds}"
        + (", which is within the noise of the score" if pd.notna(tied) and tied else "")
        + so_far.replace(" of", ", of", 1)
    )


def print_ranking(
    ranked: pd.DataFrame,
    form: Format = Format.TABLE,
    floor: Floor | None = None,
    top: int | None = None,
) -> None:
    """Print ranked trials on the standard output.

    Args:
        ranked: What `tune_gan.results.ranking.rank` returns.
        form: How; as JSON each trial has its searched fields under ``config``.
        floor: What real samples score, to be said below the table.
        top: How many rows the table shows; by default all.
    """
    if form == Format.JSON:
        print(json.dumps(ranking_records(ranked), indent=2))
    elif form != Format.TABLE:
        print_table(ranked, form)
    elif ranked.empty:
        table_console().print("no trial to show")
    else:
        _print_to_fit(ranked, top)
        out = Console(soft_wrap=True, highlight=False, markup=False)
        for line in _legend(ranked, floor, top):
            out.print(line)


def _print_to_fit(ranked: pd.DataFrame, top: int | None) -> None:
    """Print the table, its searched fields below it where the terminal is too narrow for all."""
    console, fields = table_console(), searched_fields(ranked)
    table = ranking_table(ranked, top)
    unbounded = console.options.update_width(_ANY_WIDTH)
    is_wide = Measurement.get(console, unbounded, table).maximum > console.width
    # A file has a trial a line.
    if not (is_wide and console.is_terminal):
        console.print(table)
        return
    console.print(ranking_table(ranked.drop(columns=fields), top))
    configurations = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "trial"):
        if heading in ranked.columns:
            configurations.add_column(heading, justify="right", no_wrap=True)
    configurations.add_column("configuration")
    for row in ranked.head(top or len(ranked)).to_dict("records"):
        values = [f"{field} {cell(row[field])}" for field in fields if not is_missing(row[field])]
        names = [str(row[name]) for name in ("run", "trial") if name in row]
        configurations.add_row(*map(Text, names), Text(", ".join(values)))
    console.print()
    console.print(configurations)


def _legend(ranked: pd.DataFrame, floor: Floor | None, top: int | None) -> list[str]:
    """Say what the marks and numbers of the table mean."""
    lines = []
    instruments = ranked["instrument"].dropna()
    if not instruments.empty:
        lines.append(f"fid_proxy by {instruments.iloc[0]}; +- is its standard error")
    if "score" in ranked.columns:
        lines.append(f"score: {ranked.attrs.get('score', 'by the rule')}, by which these are ranked")
    if floor is not None:
        lines.append(floor.describe())
    shown = ranked.head(top or len(ranked))
    if shown["tied_with"].notna().any():
        lines.append("=: tied with the rank above that has no =, in the noise of the score")
    if _is_ranked_degenerate(shown).any():
        lines.append("!: degenerate, samples that repeat a few or are all but of one class")
    return [""] * bool(lines) + lines


def _is_ranked_degenerate(ranked: pd.DataFrame) -> pd.Series:
    return ranked["rank"].notna() & ranked["degenerate"].fillna(value=False)


def _rank_cells(ranked: pd.DataFrame) -> list[str]:
    cells = []
    for place, tie, degenerate in zip(
        ranked["rank"], ranked["tied_with"], ranked["degenerate"], strict=True
    ):
        marks = "=" * (not is_missing(tie)) + "!" * bool(not is_missing(degenerate) and degenerate)
        cells.append("" if is_missing(place) else f"{place}{marks}")
    return cells


def print_gain(ranked: pd.DataFrame) -> None:
    """Print what tuning gained, where a trial is ranked."""
    if not ranked.empty and not pd.isna(ranked["rank"].iloc[0]):
        out = Console(soft_wrap=True, highlight=False, markup=False)
        out.print(f"\n{gain_line(ranked)}")


def print_next_steps(folder: Path, ranked: pd.DataFrame) -> None:
    """Print what tuning gained and what to do with a finished sweep's winner.

    Args:
        folder: The run folder, with ``best.yaml`` and ``best_samples.png`` in it.
        ranked: Its ranked trials.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    config = shlex.quote(str(folder / "best.yaml"))
    console.print(f"\n{gain_line(ranked)}")
    choice = choose(folder)
    if choice.is_confirmed:
        console.print(f"the best below is trial {choice.trial}, {choice.rule}")
    if (folder / "best_samples.png").exists():
        console.print(f"samples of the best: {folder / 'best_samples.png'}")
    console.print(f"train with it:       tune-gan train --config {config}")
    console.print(f"all trials:          tune-gan rank {shlex.quote(str(folder))}")


def print_measurements(measured: Sequence[Any], as_json: bool) -> None:
    """Print measures of a generator on the standard output.

    Args:
        measured: Each with ``metric, value, standard_error, instrument``.
        as_json: As a JSON list, instead of a table.
    """
    if as_json:
        print(json.dumps([vars(measurement) for measurement in measured], indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in (("metric", "left"), ("value", "right"), ("+-", "right"), ("by", "left")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for one in measured:
        error = "" if one.standard_error is None else f"{one.standard_error:.2g}"
        table.add_row(one.metric, f"{one.value:.4g}", error, one.instrument)
    table_console().print(table)


def print_confirmation(confirmed: Confirmed, as_json: bool) -> None:
    """Print a confirmation on the standard output: a table and what it says, or JSON."""
    table = confirmed.table
    if as_json:
        floor = None if confirmed.floor is None else vars(confirmed.floor)
        values = {
            "configurations": records(table),
            "instrument": confirmed.instrument or None,
            "real_samples": floor,
            "left": confirmed.num_left,
        }
        print(json.dumps(values, indent=2))
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    headings = ("rank", "trial", "seeds", "lost", "mean", "low", "high", "p_best", "p_first")
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    for _, row in table.iterrows():
        shown.add_row(*(Text(cell(row[heading])) for heading in headings))
    console = table_console()
    console.print(shown)
    out = Console(soft_wrap=True, highlight=False, markup=False)
    out.print(
        "\nlow and high: 95 % interval of the mean over seeds (Student's t); p_best: probability of "
        "the lowest mean; p_first: p of the difference to the first (Welch)"
    )
    if confirmed.instrument:
        out.print(f"scores by {confirmed.instrument}")
    if confirmed.floor is not None:
        out.print(confirmed.floor.describe())
    if confirmed.num_left:
        out.print(f"{confirmed.num_left} trainings are left")
        return
    others = ", ".join(map(str, not_separable(confirmed)))
    first = table["trial"].iloc[0]
    if len(table) < 2:
        return
    if others:
        out.print(f"not separable from the first, trial {first}, at the 5 % level: {others}")
    else:
        out.print(f"all others are separable from the first, trial {first}, at the 5 % level")

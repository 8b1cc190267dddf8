"""Show a ranking: as a table on a console, as JSON, as a YAML configuration."""

import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tune_gan.results.load import TrialState, load_results, trial_config
from tune_gan.results.ranking import best_trial, gain_over_default, rank, searched_fields

_WIDTH_OF_A_FILE = 240
_WIDTH_OF_A_CAUSE = 24


def ranking_table(ranked: pd.DataFrame, top: int | None = None) -> Table:
    """Return a table of ranked trials.

    Args:
        ranked: What `tune_gan.results.ranking.rank` returns.
        top: How many rows to show; by default all.
    """
    fields = searched_fields(ranked)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("\nrank", "\ntrial"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("\nstate", no_wrap=True)
    headings = ("best\nfid_proxy", "at\niteration", "last\nfid_proxy", "\niteration")
    for heading in (*headings, *(f"\n{field}" for field in fields)):
        # Where the terminal is too narrow a number goes on in the next line; none is cut.
        table.add_column(heading, justify="right", overflow="fold")
    # That a stopped trial was stopped by the scheduler needs no column.
    causes = ranked["cause"].where(ranked["state"] != TrialState.STOPPED, "")
    if causes.any():
        table.add_column("\ncause", overflow="fold", min_width=_WIDTH_OF_A_CAUSE)
    columns = ["rank", "trial", "state", "best_fid_proxy", "best_iteration", "fid_proxy"]
    shown = ranked.assign(cause=causes)[[*columns, "iteration", *fields, "cause"]]
    for _, row in shown.head(top or len(shown)).iterrows():
        cells = [Text(_cell(cell)) for cell in row]
        table.add_row(*cells[: len(table.columns)])
    return table


def ranking_records(ranked: pd.DataFrame) -> list[dict[str, Any]]:
    """Return ranked trials as JSON takes them, best first; what is missing is None.

    Returns:
        For each trial ``rank, trial, state, cause, best_fid_proxy, best_iteration, fid_proxy,
        iteration`` and its searched fields under ``config``.
    """
    fields = searched_fields(ranked)
    records = []
    for _, row in ranked.iterrows():
        record = {column: _json(row[column]) for column in ranked.columns if column not in fields}
        records.append({**record, "config": {field: _json(row[field]) for field in fields}})
    return records


def best_yaml(run: Path) -> str:
    """Return the best trial's whole configuration as YAML that ``tune-gan train --config`` takes.

    Raises:
        RunFolderError: if the folder is no run folder.
        SweepFailedError: if no trial is ranked.
    """
    ranked = rank(load_results(run))
    best = best_trial(ranked)
    values = {field: _json(best[field]) for field in searched_fields(ranked)}
    heading = (
        f"# trial {best['trial']} of {run.absolute().name!r}: best fid_proxy "
        f"{best['best_fid_proxy']:.6g} at iteration {best['best_iteration']}\n"
    )
    return heading + trial_config(run, values).to_yaml()


def gain_line(ranked: pd.DataFrame) -> str:
    """Say in a line how much the best trial gained over the default configuration."""
    best = best_trial(ranked)
    if best["trial"] == 0:
        return "the default configuration (trial 0) is the best"
    gain = gain_over_default(ranked)
    if gain is None:
        return "the default configuration (trial 0) has no score to compare with"
    return (
        f"trial {best['trial']} scores {gain.best:.4g} where the default configuration (trial 0) "
        f"scores {gain.default:.4g}: {gain.ratio:.1f} times lower, by one seed each"
    )


def print_ranking(ranked: pd.DataFrame, as_json: bool, top: int | None = None) -> None:
    """Print ranked trials on the standard output.

    Args:
        ranked: What `tune_gan.results.ranking.rank` returns.
        as_json: As a JSON list of all trials, instead of a table.
        top: How many rows the table shows; by default all.
    """
    if as_json:
        print(json.dumps(ranking_records(ranked), indent=2))
    elif ranked.empty:
        _table_console().print("no trial has been written down yet; Ray does so every 10 seconds")
    else:
        _table_console().print(ranking_table(ranked, top))


def print_next_steps(folder: Path, ranked: pd.DataFrame) -> None:
    """Print what tuning gained and what to do with a finished sweep's winner.

    Args:
        folder: The run folder, with ``best.yaml`` and ``best_samples.png`` in it.
        ranked: Its ranked trials.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    config = shlex.quote(str(folder / "best.yaml"))
    console.print(f"\n{gain_line(ranked)}")
    console.print(f"samples of the best: {folder / 'best_samples.png'}")
    console.print(f"train with it:       tune-gan train --config {config}")
    console.print(f"all trials:          tune-gan rank {shlex.quote(str(folder))}")


def _table_console() -> Console:
    """Return a console as wide as the terminal, or wide enough for a file."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_A_FILE)


def _cell(value: Any) -> str:
    if value is None or pd.isna(value):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _json(value: Any) -> Any:
    """Return a cell as Python has it: NumPy's numbers as numbers, what is missing as None."""
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value

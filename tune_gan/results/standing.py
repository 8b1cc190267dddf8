"""How a sweep stands while it runs, and how that is shown."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune_gan.results.formats import cell, is_missing
from tune_gan.results.load import load_results
from tune_gan.results.ranking import rank, searched_fields
from tune_gan.results.reports import load_reports
from tune_gan.results.trials import TrialState, describe_score, num_trials, read_sweep, read_trials
from tune_gan.settings import describe_duration

_UNFINISHED = (TrialState.RUNNING, TrialState.PENDING)
_MOST_RUNNING = 8


@dataclass(frozen=True)
class Running:
    """A trial at work.

    Attributes:
        trial: Its number.
        share: Of its iterations, how many it has done.
        score: Its last `ranking_score`, None before the first.
    """

    trial: int
    share: float
    score: float | None


@dataclass(frozen=True)
class Standing:
    """How a sweep stands.

    Attributes:
        num_trials: How many it has in all.
        states: How many trials are in which state.
        best_trial: The best trial so far, unfinished ones included; None before the first score.
        best_score: Its `ranking_score`.
        best_config: Its searched fields.
        best_age_s: Seconds since it reported that; None where that is not known.
        iterations_per_s: Of all trials together, since the sweep was started; None where unknown.
        running: The trials at work.
        num_workers: How many may be at work at once; None where that is not known.
        seconds_left: About how long it goes on; None where that cannot be said.
    """

    num_trials: int
    states: Mapping[str, int]
    best_trial: int | None = None
    best_score: float | None = None
    best_config: Mapping[str, Any] = field(default_factory=dict)
    best_age_s: float | None = None
    iterations_per_s: float | None = None
    running: Sequence[Running] = ()
    num_workers: int | None = None
    seconds_left: float | None = None

    @property
    def num_ended(self) -> int:
        """How many trials have ended, in whatever state."""
        return sum(n for state, n in self.states.items() if state not in list(_UNFINISHED))


def read_standing(run: Path, held_since: float | None) -> Standing:
    """Read from a run folder how its sweep stands.

    Args:
        run: The run folder.
        held_since: When the sweep at work was started, in seconds since 1970; None where none is.

    Raises:
        RunFolderError: if the folder is no run folder.
        IncomparableError: if trials were scored with different instruments.
    """
    spec, trials = read_sweep(run), read_trials(run)
    table, reports = load_results(run), load_reports(run, trials)
    now = time.time()
    counts = {str(state): int(n) for state, n in table["state"].value_counts().items()}
    candidates = table[table["state"].isin([TrialState.COMPLETED, TrialState.STOPPED, *_UNFINISHED])]
    scored = candidates[candidates["best_fid_proxy"].notna()]
    best: dict[str, Any] = {}
    if len(scored):
        # The order of `rank`, with trials at work among those that have ended.
        row = rank(scored.assign(state=TrialState.COMPLETED.value)).iloc[0]
        number = int(row["trial"])
        chosen = reports[(reports["trial"] == number) & (reports["iteration"] == row["best_iteration"])]
        reported_at = chosen["reported_at"].iloc[0]
        config = {f: row[f] for f in searched_fields(table) if not is_missing(row[f])}
        best = {
            "best_trial": number,
            "best_score": float(chosen["ranking_score"].iloc[0]),
            "best_config": config,
            "best_age_s": None if pd.isna(reported_at) else max(0.0, now - float(reported_at)),
        }
    total = max(num_trials(spec) or 0, len(trials))
    work = {} if held_since is None else _work(spec, table, reports, total, held_since, now)
    return Standing(total, counts, **best, **work)


def _work(
    spec: Mapping[str, Any],
    table: pd.DataFrame,
    reports: pd.DataFrame,
    total: int,
    held_since: float,
    now: float,
) -> dict[str, Any]:
    """Return what can be said of a sweep at work: its speed, its trials, the time left."""
    length = int(spec["gan"]["num_iterations"])
    fresh = reports["reported_at"] >= held_since
    last = reports.groupby("trial").tail(1).set_index("trial")
    before = reports[~fresh].groupby("trial")["iteration"].max()
    steps = reports[fresh].groupby("trial")["iteration"].max()
    done = steps - before.reindex(steps.index).fillna(0)
    speed = float(done.sum()) / max(now - held_since, 1e-9)
    at_work = table[table["state"] == TrialState.RUNNING]
    running = [
        Running(
            int(trial),
            float(last["iteration"].get(trial, 0)) / length,
            float(last["ranking_score"][trial]) if trial in last.index else None,
        )
        for trial in at_work["trial"]
    ]
    # A trial that has ended is done, however far it came.
    ended = set(table[~table["state"].isin(_UNFINISHED)]["trial"])
    ended_now = len(ended & set(steps.index))
    partly = sum(float(done.get(r.trial, 0)) / length for r in running)
    shares_left = total - len(ended) - sum(r.share for r in running)
    shares_done = ended_now + partly
    left = None
    if shares_done > 0:
        left = (now - held_since) / shares_done * shares_left
        left = max(0.0, min(left, _budget_left(spec, last, speed, now - held_since)))
    return {"iterations_per_s": speed or None, "running": running, "seconds_left": left}


def _budget_left(spec: Mapping[str, Any], last: pd.DataFrame, speed: float, elapsed_s: float) -> float:
    """Return about how long a sweep's budget lasts, in seconds; infinite without one."""
    given = spec.get("budget")
    budget = given if isinstance(given, Mapping) else {}
    limit_s, iterations = budget.get("time"), budget.get("iterations")
    left = math.inf if not isinstance(limit_s, int | float) else limit_s - elapsed_s
    if isinstance(iterations, int) and speed:
        left = min(left, (iterations - float(last["iteration"].sum())) / speed)
    return left


def _trial(number: int) -> str:
    return f"trial {number}"


def standing_table(standing: Standing, name: str, name_of: Callable[[int], str] = _trial) -> Group:
    """Return how a sweep stands, as rich shows it: a few lines, and a bar for each trial at work.

    Args:
        standing: How it stands.
        name: Of the sweep.
        name_of: What a trial is called, by its number.
    """
    lines = Table.grid(padding=(0, 1))
    lines.add_column(style="bold", no_wrap=True)
    lines.add_column(overflow="fold")
    left = (
        ""
        if standing.seconds_left is None
        else f", about {describe_duration(standing.seconds_left)} left"
    )
    lines.add_row(name, f"{standing.num_ended} of {standing.num_trials} trials have ended{left}")
    states = ", ".join(f"{n} {state}" for state, n in standing.states.items()) or "none has begun"
    lines.add_row("states", states)
    lines.add_row("best", _describe_best(standing, name_of))
    speed = standing.iterations_per_s
    if speed is not None:
        of = "" if standing.num_workers is None else f" of {standing.num_workers}"
        busy = f"{len(standing.running)}{of} workers busy"
        lines.add_row("speed", f"{speed:,.0f} iterations a second, {busy}")
    bars = Table.grid(padding=(0, 1))
    for one in standing.running[:_MOST_RUNNING]:
        score = "no report yet" if one.score is None else f"fid_proxy {describe_score(one.score)}"
        bar = ProgressBar(total=1.0, completed=one.share, width=24, complete_style="cyan")
        bars.add_row(Text(name_of(one.trial)), bar, Text(f"{one.share:4.0%}"), Text(score))
    more = len(standing.running) - _MOST_RUNNING
    if more > 0:
        bars.add_row(Text(f"and {more} more"))
    return Group(lines, bars)


def _describe_best(standing: Standing, name_of: Callable[[int], str]) -> str:
    if standing.best_trial is None or standing.best_score is None:
        return "no score yet"
    age = standing.best_age_s
    when = "" if age is None else f", {describe_duration(age)} ago"
    config = ", ".join(f"{name} {cell(value)}" for name, value in standing.best_config.items())
    score = describe_score(standing.best_score)
    best = f"fid_proxy {score} by {name_of(standing.best_trial)}{when}"
    return best + (f": {config}" if config else "")

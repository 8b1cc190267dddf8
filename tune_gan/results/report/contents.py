"""Every number of a run's report, as JSON takes it."""

import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from tune_gan.errors import RunFolderError, StorageError, TuneGanError
from tune_gan.results.compare import attainable, best_by_cost
from tune_gan.results.confirmed import load_confirmation, not_separable
from tune_gan.results.curves import early_and_final, verdict
from tune_gan.results.floor import Floor, read_floor
from tune_gan.results.formats import records
from tune_gan.results.importance import importance
from tune_gan.results.load import load_results
from tune_gan.results.losses import load_losses, loss_bands
from tune_gan.results.ranking import choose, rank, searched_fields
from tune_gan.results.reports import load_reports
from tune_gan.results.seeds import seed_noise
from tune_gan.results.show import best_yaml, gain_line, ranking_records
from tune_gan.results.trials import num_trials, read_sweep, second_objective

# With more the page grows too large for a mail; the best are drawn, and others in equal steps.
MOST_CURVES = 300
_MOST_POINTS = 400
_NUM_WITH_LOSSES = 5
_NUM_STRETCHES = 100


def report_contents(run: Path) -> dict[str, Any]:
    """Return everything that a report says in numbers and words.

    Returns:
        ``run`` (its name, trials, versions, commands, seed, spec), ``headline`` (the best trial and
        why, what was gained, how to train it), ``states`` with causes, ``leaderboard`` (as
        `ranking_records`), ``curves`` (for each trial its reports), ``losses`` (of the best trials and
        the default, over stretches of iterations), ``progress`` (best score against cost),
        ``attainable``, ``importance``, ``rungs``, ``confirmation``, ``timeline`` and, with a second
        objective, ``objective``. What a run cannot say is None, or ``missing`` says why.

    Raises:
        RunFolderError: if the folder is no run folder.
        IncomparableError: if trials were scored with different instruments.
    """
    trials = load_results(run)
    spec = _sweep_or_less(run)
    ranked, reports = rank(trials), load_reports(run)
    headline = _headline(run, ranked)
    floor = _floor(run, headline)
    return {
        "run": {**_describe_run(run, spec), "num_trials": max(num_trials(spec) or 0, len(trials))},
        "headline": headline,
        "floor": None if floor is None else vars(floor),
        "states": _states(ranked),
        "fields": searched_fields(ranked),
        "objective": second_objective(spec),
        "leaderboard": ranking_records(ranked),
        "curves": _curves(ranked, reports),
        "losses": _losses(run, ranked),
        "progress": _progress(run),
        "attainable": _attainable(run),
        "importance": _importance(run),
        "rungs": _rungs(run),
        "confirmation": _confirmation(run),
        "timeline": timeline(reports),
    }


def _floor(run: Path, headline: dict[str, Any]) -> Floor | None:
    """Return what real samples score where the best was chosen: in the sweep, or by fresh seeds."""
    confirmed = load_confirmation(run) if headline.get("is_confirmed") else None
    return read_floor(run) if confirmed is None else confirmed.floor


def _sweep_or_less(run: Path) -> dict[str, Any]:
    """Return the sweep of a run, or where its file is damaged as much as the trials say."""
    try:
        return read_sweep(run)
    except RunFolderError:
        return {"gan": {}, "space": {}}


def _attainable(run: Path) -> list[dict[str, Any]]:
    try:
        return records(attainable([run]))
    except RunFolderError:
        return []


def _rungs(run: Path) -> dict[str, Any]:
    try:
        return {"table": records(early_and_final(run)), "verdict": verdict(run)}
    except RunFolderError as error:
        return {"table": [], "verdict": str(error)}


def _describe_run(run: Path, spec: dict[str, Any]) -> dict[str, Any]:
    try:
        environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        environment = {}
    file = run / "sweep.yaml"
    spec_text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    given = spec.get("search")
    search = given if isinstance(given, dict) else {}
    return {
        "name": run.absolute().name,
        "sweep": str(spec.get("name", "")),
        "folder": str(run.absolute()),
        "environment": _shown(environment) if isinstance(environment, dict) else {},
        "algorithm": str(search.get("algorithm", "")),
        "search_seed": str(search.get("seed", "")),
        "training_seed": str(spec["gan"].get("seed", 0)),
        "spec": spec_text,
    }


def _shown(value: Any) -> Any:
    """Return what a file says as JSON may hold it, which has no word for NaN."""
    if isinstance(value, dict):
        return {str(name): _shown(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_shown(part) for part in value]
    return value if isinstance(value, str | bool | None) else str(value)


def _headline(run: Path, ranked: pd.DataFrame) -> dict[str, Any]:
    try:
        choice = choose(run)
    # Also where its confirmation is damaged.
    except TuneGanError as error:
        return {"missing": str(error)}
    row = ranked[ranked["trial"] == choice.trial].iloc[0]
    tied = [int(n) for n in ranked[ranked["tied_with"] == choice.trial]["trial"]]
    config = shlex.quote(str(run.absolute() / "best.yaml"))
    command = f"tune-gan train --config {config}"
    if not (run / "best.yaml").is_file():
        command = (
            f"tune-gan best {shlex.quote(str(run.absolute()))} > best.yaml\n"
            "tune-gan train --config best.yaml"
        )
    return {
        "trial": choice.trial,
        "rule": choice.rule,
        "best_fid_proxy": float(row["best_fid_proxy"]),
        "instrument": row["instrument"],
        "is_confirmed": choice.is_confirmed,
        # One seed's gain is that of the first in the ranking.
        "gain": None if choice.is_confirmed else gain_line(ranked),
        "tied": tied,
        "command": command,
        "yaml": _yaml(run),
    }


def _yaml(run: Path) -> str:
    """Return the best configuration, or why there is none, as where somebody wrote it by hand."""
    try:
        return best_yaml(run)
    except TuneGanError as error:
        return f"# {error}"


def _states(ranked: pd.DataFrame) -> list[dict[str, Any]]:
    """Return how many trials are in which state, with the most frequent causes."""
    rows = []
    for state, part in ranked.groupby("state", sort=False):
        causes = part["cause"][part["cause"] != ""].value_counts().head(5)
        listed = [{"cause": str(cause), "trials": int(n)} for cause, n in causes.items()]
        rows.append({"state": str(state), "trials": len(part), "causes": listed})
    return rows


def _curves(ranked: pd.DataFrame, reports: pd.DataFrame) -> dict[str, Any]:
    """Return the reports of the best trials, and of others in equal steps where there are too many."""
    numbers = ranked["trial"].tolist()
    if len(numbers) > MOST_CURVES:
        best, rest = numbers[: MOST_CURVES // 2], numbers[MOST_CURVES // 2 :]
        shown = set(best) | set(rest[:: -(-len(rest) // (MOST_CURVES // 2))])
    else:
        shown = set(numbers)
    chosen = reports[reports["trial"].isin(shown)]
    curves = [
        {
            "trial": int(str(trial)),
            "iteration": part["iteration"].tolist(),
            "fid_proxy": part["fid_proxy"].tolist(),
            "gen_loss": [None if pd.isna(v) else v for v in part["gen_loss"]],
            "disc_loss": [None if pd.isna(v) else v for v in part["disc_loss"]],
        }
        for trial, part in chosen.groupby("trial")
    ]
    return {"shown": len(curves), "of": len(numbers), "trials": curves}


def _losses(run: Path, ranked: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the losses of the best trials and of the default, the best first.

    Returns:
        For each trial that has any ``trial``, and of at most 100 stretches of its iterations ``first``
        and ``last`` one, and of ``gen_loss`` and ``disc_loss`` each ``mean``, ``low`` and ``high``, the
        10th and the 90th percentile: None where a loss is not finite.
    """
    best = ranked[ranked["rank"].notna()]["trial"].head(_NUM_WITH_LOSSES)
    chosen = list(dict.fromkeys([*best.tolist(), 0]))
    try:
        bands = loss_bands(load_losses(run, chosen), _NUM_STRETCHES)
    except StorageError:
        return []
    known = set(bands["trial"])
    return [_losses_of(trial, bands[bands["trial"] == trial]) for trial in chosen if trial in known]


def _losses_of(trial: int, bands: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {"trial": trial}
    for loss, part in bands.groupby("loss", sort=False):
        found |= {name: part[name].tolist() for name in ("first", "last")}
        found[str(loss)] = {
            name: [None if pd.isna(v) else float(f"{v:.6g}") for v in part[name]]
            for name in ("mean", "low", "high")
        }
    return found


def _progress(run: Path) -> list[dict[str, Any]]:
    """Return the best score against cost, a point for each time that it fell, and the end."""
    table = best_by_cost(run).dropna(subset=["best"])
    if table.empty:
        return []
    falls = table["best"].diff().fillna(-1) < 0
    falls.iloc[-1] = True
    return records(table[falls].tail(_MOST_POINTS))


def _importance(run: Path) -> dict[str, Any]:
    try:
        found = importance([run])
    except TuneGanError as error:
        return {"missing": str(error)}
    return {
        "fields": records(found.table),
        "pairs": records(found.pairs),
        "left_out": found.left_out,
        "iteration": found.iteration,
        "trials": found.num_trials,
        "method": found.method.value,
    }


def _confirmation(run: Path) -> dict[str, Any] | None:
    try:
        confirmed = load_confirmation(run)
    except TuneGanError as error:
        return {"missing": str(error), "configurations": [], "left": 0}
    if confirmed is None:
        return None
    found = {"configurations": records(confirmed.table), "left": confirmed.num_left}
    try:
        noise = seed_noise(run)
    except TuneGanError as error:
        return {**found, "missing": str(error)}
    return {
        **found,
        "not_separable": not_separable(confirmed),
        "gains": records(noise.table),
        "seeds": noise.describe(),
    }


def timeline(reports: pd.DataFrame) -> list[dict[str, Any]]:
    """Return when which worker trained which trial.

    Returns:
        For each stretch of reports of one trial by one worker ``trial, worker, start, end``, in
        seconds since the first began. Empty for runs of version 0.2.0 and earlier.
    """
    timed = reports[reports["reported_at"].notna() & reports["worker"].notna()]
    if timed.empty:
        return []
    took = timed.groupby("trial")["time_s"].diff().fillna(timed["time_s"]).clip(lower=0)
    timed = timed.assign(start=timed["reported_at"] - took, worker=timed["worker"].astype(str))
    moved = timed["worker"] != timed.groupby("trial")["worker"].shift()
    stretches = timed.groupby([timed["trial"], moved.cumsum().rename("stretch")])
    table = stretches.agg(
        worker=("worker", "first"), start=("start", "min"), end=("reported_at", "max")
    ).reset_index()
    begin = float(table["start"].min())
    return [
        {
            "trial": int(row["trial"]),
            "worker": row["worker"],
            "start": round(row["start"] - begin, 3),
            "end": round(row["end"] - begin, 3),
        }
        for row in table.to_dict("records")
    ]

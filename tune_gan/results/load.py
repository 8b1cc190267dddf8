"""Read a run folder into one table, a row a trial, also while the sweep runs."""

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from tune_gan.config import GanConfig
from tune_gan.errors import RunFolderError
from tune_gan.settings import read_yaml

COLUMNS = [
    "trial",
    "state",
    "cause",
    "best_fid_proxy",
    "best_iteration",
    "fid_proxy",
    "iteration",
]


class TrialState(StrEnum):
    """How a trial stands or ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"
    RUNNING = "running"
    PENDING = "pending"


def load_results(run: str | Path) -> pd.DataFrame:
    """Read a run folder without Ray or torch, unpickling nothing.

    Args:
        run: The run folder.

    Returns:
        One row a trial, in the order of their numbers: ``trial`` (0 is the default configuration),
        ``state`` (a `TrialState`), ``cause`` (empty for completed), ``best_fid_proxy``
        (lower is better) and ``best_iteration`` at which it was reached, the last ``fid_proxy`` and
        its ``iteration``, then a column for each searched field. What a trial has not reported is
        missing, never 0. Empty before the first trial.

    Raises:
        RunFolderError: if the folder is no run folder or its trial list is damaged.
    """
    folder = Path(run)
    spec = read_sweep(folder)
    num_iterations = int(spec["gan"]["num_iterations"])
    rows = [_read_trial(folder, trial, num_iterations) for trial in _trial_list(folder)]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *spec["space"]])
    whole_numbers = {"best_iteration": "Int64", "iteration": "Int64"}
    return table.astype(whole_numbers).sort_values("trial", ignore_index=True)


def read_sweep(folder: Path) -> dict[str, Any]:
    """Return the resolved spec of a run, as `sweep.yaml` holds it.

    Raises:
        RunFolderError: if there is none.
    """
    path = folder / "sweep.yaml"
    if not path.is_file():
        raise RunFolderError(f"{folder} is no run folder: it holds no sweep.yaml")
    spec = read_yaml(path)
    gan, space = (spec.get("gan"), spec.get("space")) if isinstance(spec, dict) else (None, None)
    if not (isinstance(gan, dict) and isinstance(space, dict) and "num_iterations" in gan):
        raise RunFolderError(f"{path} is damaged: it describes no sweep")
    GanConfig.parse(gan)
    return spec  # type: ignore[no-any-return]


def trial_config(folder: Path, values: dict[str, Any]) -> GanConfig:
    """Return the configuration of a trial: the sweep's own with the trial's searched fields."""
    return GanConfig.parse({**read_sweep(folder)["gan"], **values})


def trial_folder(folder: Path, trial: int) -> Path:
    """Return the folder of a trial by its number."""
    return folder / f"trial_{trial:05d}"


@dataclass(frozen=True)
class _ListedTrial:
    """A trial as Tune lists it: its number from 0, its status and its searched fields."""

    number: int
    status: str
    values: dict[str, Any]


def _trial_list(folder: Path) -> list[_ListedTrial]:
    """Return the trials that Tune has written down.

    The list and not the folders: a folder may be left over from a trial that Tune has forgotten.
    """
    states = sorted(folder.glob("experiment_state-*.json"))
    if not states:
        return []
    try:
        listed = json.loads(states[-1].read_text(encoding="utf-8"))["trial_data"]
        trials = [json.loads(trial) for trial, _ in listed]
        # Ray counts trials from 1 in the experiment tag.
        return [
            _ListedTrial(
                number=int(trial["experiment_tag"].split("_", 1)[0]) - 1,
                status=str(trial["status"]),
                values=dict(trial["config"]),
            )
            for trial in trials
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{states[-1]} is damaged ({error}); the trials are unknown") from None


def _read_trial(folder: Path, trial: _ListedTrial, num_iterations: int) -> dict[str, Any]:
    own_folder = trial_folder(folder, trial.number)
    reports = _read_reports(own_folder / "result.json")
    row: dict[str, Any] = {"trial": trial.number, **trial.values}
    if reports:
        best = min(reports, key=lambda report: report["fid_proxy"])
        row |= {
            "best_fid_proxy": best["fid_proxy"],
            "best_iteration": best["iteration"],
            "fid_proxy": reports[-1]["fid_proxy"],
            "iteration": reports[-1]["iteration"],
        }
    last = reports[-1] if reports else {}
    # Of a trial whose process was killed Tune writes an error file and leaves its status at RUNNING.
    has_failed = trial.status == "ERROR" or (own_folder / "error.txt").is_file()
    state = TrialState.FAILED if has_failed else _state(trial.status, last, num_iterations)
    row["state"] = state.value
    row["cause"] = _cause(state, last, own_folder)
    return row


def _read_reports(path: Path) -> list[dict[str, Any]]:
    """Return the whole reports of a trial; one that is being written or has no score is left out."""
    if not path.is_file():
        return []
    reports = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict) and isinstance(report.get("iteration"), int):
            score = report.get("fid_proxy")
            if isinstance(score, int | float) and math.isfinite(score):
                reports.append(report)
    return reports


def _state(status: str, last: dict[str, Any], num_iterations: int) -> TrialState:
    if last.get("state") == "diverged":
        return TrialState.DIVERGED
    if last and last["iteration"] >= num_iterations:
        return TrialState.COMPLETED
    if status == "TERMINATED":
        return TrialState.STOPPED if last else TrialState.PENDING
    return TrialState.RUNNING if last or status == "RUNNING" else TrialState.PENDING


def _cause(state: TrialState, last: dict[str, Any], folder: Path) -> str:
    if state == TrialState.FAILED:
        return _last_line(folder / "error.txt")
    if state == TrialState.DIVERGED:
        return f"at iteration {last['iteration']}: {last.get('cause', '')}"
    if state == TrialState.RUNNING:
        return f"unfinished at iteration {last['iteration']}" if last else "no report yet"
    return {TrialState.STOPPED: "scheduler", TrialState.PENDING: "not started"}.get(state, "")


def _last_line(path: Path) -> str:
    if not path.is_file():
        return "unknown: no error.txt was written"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "unknown")

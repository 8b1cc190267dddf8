"""Read the trials of a run folder of version 0.1.0, which Ray Tune's own list alone says."""

import json
from pathlib import Path
from typing import Any, NoReturn

from tune_gan.errors import RunFolderError
from tune_gan.results.trials import (
    REPORTS_FILE,
    TRIALS_FILE,
    ListedTrial,
    TrialState,
    read_sweep,
    trial_folder,
)


def read_trials_of_tune(folder: Path) -> list[ListedTrial]:
    """Return the trials that Tune has written down.

    The list and not the folders: a folder may be left over from a trial that Tune has forgotten.

    Raises:
        RunFolderError: if the folder is no run folder or its list of trials is damaged.
    """
    num_iterations = int(read_sweep(folder)["gan"]["num_iterations"])
    states = sorted(folder.glob("experiment_state-*.json"))
    if not states and list(folder.glob("trial_*")):
        _fail(folder)
    if not states:
        return []
    try:
        listed = json.loads(states[-1].read_text(encoding="utf-8"))["trial_data"]
        trials = [json.loads(trial) for trial, _ in listed]
        # Of a later version, whose numbers are others.
        is_later = any(trial["experiment_tag"].isdigit() for trial in trials)
        if is_later:
            _fail(folder)
        return [_read_trial(folder, trial, num_iterations) for trial in trials]
    except RunFolderError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(f"{states[-1]} is damaged ({error}); the trials are unknown") from None


def _fail(folder: Path) -> NoReturn:
    raise RunFolderError(f"{folder / TRIALS_FILE} is missing; the trials are unknown")


def _read_trial(folder: Path, trial: dict[str, Any], num_iterations: int) -> ListedTrial:
    # Ray counts trials from 1 in the experiment tag.
    number = int(trial["experiment_tag"].split("_", 1)[0]) - 1
    own_folder = trial_folder(folder, number)
    found = ListedTrial(
        number, TrialState.PENDING, "", dict(trial["config"]), own_folder / REPORTS_FILE
    )
    last = found.reports[-1] if found.reports else {}
    # Of a trial whose process was killed Tune writes an error file and leaves its status at RUNNING.
    has_failed = trial["status"] == "ERROR" or (own_folder / "error.txt").is_file()
    found.state = TrialState.FAILED if has_failed else _state(trial["status"], last, num_iterations)
    found.cause = _cause(found.state, last, own_folder)
    return found


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

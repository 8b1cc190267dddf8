"""Read the trials of a run folder, also while the sweep runs."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError, RunFolderError
from tune_gan.files import read_lines
from tune_gan.places import features_near
from tune_gan.settings import read_yaml
from tune_gan.space import Constraint, Distribution, grid_after_default

TRIALS_FILE = "trials.jsonl"
REPORTS_FILE = "result.json"
# Of a trial, the samples of its best report; of a run, real ones.
SAMPLES_FILE = "samples.png"
REAL_FILE = "real.png"
# What a report calls the best `ranking_score` of its trial so far.
METRIC = "best_ranking_score"
# What a second objective may be, and whether more of it is better.
SECOND_OBJECTIVES = {"samples_per_s": True, "train_time_s": False}

# Above every score.
ABOVE_ALL = 1e6
_MOST_ITERATIONS = 10**15
_MOST_NAMED = 3
LARGEST_NUMBER = 1e300

_log = logging.getLogger(__name__)


class TrialState(StrEnum):
    """How a trial stands or ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    COLLAPSED = "collapsed"
    FAILED = "failed"
    RUNNING = "running"
    PENDING = "pending"


@dataclass
class ListedTrial:
    """A trial of a run folder.

    Attributes:
        number: From 0, which is the default configuration.
        state: How it stands or ended.
        cause: Why.
        values: Its searched fields.
        file: The file of its reports, where it may have any.
    """

    number: int
    state: TrialState
    cause: str
    values: dict[str, Any]
    file: Path | None = None

    @property
    def reports(self) -> list[dict[str, Any]]:
        """Its whole reports, each with an iteration and a score, by iteration."""
        return self._kept[0]

    def read(self) -> tuple[list[dict[str, Any]], int]:
        """Return its reports without keeping them, and how many of their lines are damaged."""
        if "_kept" in self.__dict__:
            return self._kept
        return _read_reports(self.file) if self.file else ([], 0)

    @cached_property
    def _kept(self) -> tuple[list[dict[str, Any]], int]:
        return _read_reports(self.file) if self.file else ([], 0)


def read_sweep(folder: Path) -> dict[str, Any]:
    """Return the resolved spec of a run, as `sweep.yaml` holds it, with its classifier where it is now.

    Raises:
        RunFolderError: if there is none, or it is damaged.
    """
    path = folder / "sweep.yaml"
    if not path.is_file():
        raise no_run_folder(folder)
    try:
        spec = read_yaml(path)
        gan, space = (spec.get("gan"), spec.get("space")) if isinstance(spec, dict) else (None, None)
        if not (isinstance(gan, dict) and isinstance(space, dict) and "num_iterations" in gan):
            raise ConfigError("it describes no sweep")
        GanConfig.parse(gan)
    except ConfigError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise RunFolderError(f"{path} is damaged: {reason}") from None
    if gan.get("labelled") is True and (features := features_near(folder)):
        # The run may have been moved.
        gan["weights"] = str(features)
    return spec  # type: ignore[no-any-return]


def no_run_folder(folder: Path) -> RunFolderError:
    """Return what to say of a path that is none, with the runs in it where it holds some."""
    if not folder.exists():
        return RunFolderError(f"{folder} is no run folder: it is not there")
    if not folder.is_dir():
        return RunFolderError(f"{folder} is no run folder: it is a file")
    inside = sorted(path.parent.name for path in folder.glob("*/sweep.yaml"))[-_MOST_NAMED:]
    named = f"; the last runs in it: {', '.join(inside)}" if inside else ""
    return RunFolderError(f"{folder} is no run folder: it holds no sweep.yaml{named}")


def num_trials(spec: Mapping[str, Any]) -> int | None:
    """Return how many trials a sweep, as `read_sweep` returns it, has in all; None if unknown."""
    search, how = spec.get("search"), spec.get("confirmation")
    given = search.get("num_trials") if isinstance(search, Mapping) else None
    try:
        if isinstance(how, Mapping):
            return len(how["candidates"]) * len(how["seeds"])
        if isinstance(given, int):
            return given
        space = {name: Distribution.from_mapping(part) for name, part in spec["space"].items()}
        constraints = [Constraint.parse(text) for text in spec.get("constraints") or []]
        return len(grid_after_default(space, constraints, GanConfig.parse(spec["gan"]).model_dump()))
    except (ConfigError, KeyError, TypeError, ValueError):
        return None


def second_objective(spec: Mapping[str, Any]) -> str | None:
    """Return the objective beside `fid_proxy` of a sweep, as `read_sweep` returns it, if it has one."""
    search = spec.get("search")
    names = search.get("objectives") if isinstance(search, Mapping) else None
    given = names if isinstance(names, list) else []
    known = [name for name in given if isinstance(name, str) and name in SECOND_OBJECTIVES]
    return known[0] if known else None


def trial_config(folder: Path, values: dict[str, Any]) -> GanConfig:
    """Return the configuration of a trial: the sweep's own with the trial's searched fields."""
    return GanConfig.parse({**read_sweep(folder)["gan"], **values})


def trial_folder(folder: Path, trial: int) -> Path:
    """Return the folder of a trial by its number."""
    return folder / f"trial_{trial:05d}"


def read_trials(folder: Path) -> list[ListedTrial]:
    """Return the trials of a run by number, as its list of trials and their own reports say.

    Raises:
        RunFolderError: if the folder is no run folder or its list of trials is damaged.
    """
    path = folder / TRIALS_FILE
    if not path.is_file():
        # Not at the top: only folders of version 0.1.0 need it.
        from tune_gan.results.earlier import read_trials_of_tune

        journal = folder / "optuna_journal.log"
        if journal.is_file() and b'"spec"' in journal.read_bytes():
            raise RunFolderError(f"{path} is missing; `tune-gan resume` makes it anew")
        return read_trials_of_tune(folder)
    lines, damaged = read_lines(path)
    listed: dict[int, dict[str, Any]] = {}
    for line in lines:
        number, state = line.get("trial"), line.get("state")
        if type(number) is int and number >= 0 and isinstance(state, str) and state in list(TrialState):
            listed.setdefault(number, {}).update(line)
        else:
            damaged += 1
    if damaged:
        _log.warning("%s: %d damaged lines left out", path, damaged)
    if not listed and (damaged or list(folder.glob("trial_*"))):
        raise RunFolderError(f"{path} is damaged: it lists no trial; `tune-gan resume` makes it anew")
    return [_listed_trial(folder, number, line) for number, line in sorted(listed.items())]


def read_reports(path: Path) -> list[dict[str, Any]]:
    """Return the whole reports of a trial by iteration; one that has no score is left out."""
    return _read_reports(path)[0]


def _read_reports(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the whole reports of a trial by iteration, and how many lines are damaged."""
    lines, damaged = read_lines(path)
    if damaged:
        _log.warning("%s: %d damaged lines left out", path, damaged)
    reports = {}
    for report in lines:
        iteration = report.get("iteration")
        if (
            type(iteration) is int
            and 0 < iteration < _MOST_ITERATIONS
            and finite(report, "fid_proxy") is not None
        ):
            reports[iteration] = report
    return [reports[iteration] for iteration in sorted(reports)], damaged


def finite(report: Mapping[str, Any], name: str) -> float | None:
    """Return a field of a report if it is a finite number, as what a stranger wrote need not be."""
    value = report.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST_NUMBER else None


def ranking_score(report: Mapping[str, Any]) -> float:
    """Return what reports are ranked by, lowest first.

    It is the `fid_proxy`, with 1,000,000 added where the samples are degenerate, a few repeated or all
    but of one class: so these are below all others.

    Args:
        report: A report with a score; one that does not say whether it is degenerate counts as honest.
    """
    score = float(report["fid_proxy"])
    return score + ABOVE_ALL if report.get("degenerate") is True else score


def describe_score(score: float) -> str:
    """Say in words what `ranking_score` returned."""
    return f"{score:.4g}" if score <= ABOVE_ALL else f"{score - ABOVE_ALL:.4g} (degenerate)"


def best_report(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the best of a trial's reports, of which there is one at least."""
    return min(reports, key=ranking_score)


def objective_of(reports: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return a trial's second objective, as far as it has come.

    Args:
        reports: Its reports, by iteration.
        name: ``train_time_s``, seconds of training; or ``samples_per_s``, real samples a second of
            training, over the whole trial.
    """
    timed = [r for r in reports if finite(r, "train_time_s") is not None]
    if not timed or not timed[-1]["train_time_s"]:
        return None
    total = float(timed[-1]["train_time_s"])
    if name == "train_time_s":
        return total
    samples, before = 0.0, 0.0
    for report in timed:
        rate = finite(report, "samples_per_s") or 0.0
        samples += rate * (report["train_time_s"] - before)
        before = report["train_time_s"]
    return samples / total


def _listed_trial(folder: Path, number: int, line: Mapping[str, Any]) -> ListedTrial:
    own_folder = trial_folder(folder, number)
    state, cause = TrialState(line["state"]), str(line.get("cause") or "")
    values = line.get("config", _params(own_folder))
    file = own_folder / REPORTS_FILE
    if not own_folder.is_dir() and state not in (TrialState.PENDING, TrialState.RUNNING):
        _log.warning("%s is missing", own_folder)
        cause = f"{cause}; its folder is missing".removeprefix("; ")
    if not isinstance(values, dict):
        _log.warning("%s: the configuration of trial %d is lost", folder / TRIALS_FILE, number)
        if state in (TrialState.COMPLETED, TrialState.STOPPED):
            state, cause = TrialState.FAILED, "its configuration is lost"
    # Nothing that a stranger wrote is to pass for another column.
    known = values if isinstance(values, dict) else {}
    known = {name: value for name, value in known.items() if name in GanConfig.model_fields}
    trial = ListedTrial(number, state, cause, known, file)
    if state in (TrialState.RUNNING, TrialState.PENDING):
        reached = trial.reports[-1]["iteration"] if trial.reports else None
        stand = f"unfinished at iteration {reached}" if reached else "no report yet"
        trial.cause = f"{stand}; {cause}" if cause else stand
    return trial


def _params(folder: Path) -> Any:
    """Return a trial's searched fields as its own folder says, or None."""
    try:
        return json.loads((folder / "params.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

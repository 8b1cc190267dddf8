"""What watches over a running sweep: its budget, hung trials, failures, the disk."""

import math
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from tune_gan.config import GanConfig
from tune_gan.errors import StorageError
from tune_gan.gan.album import write_hyperparameters
from tune_gan.gan.event_file import EventFile
from tune_gan.gan.loss_scalars import LossScalars
from tune_gan.gan.pictures import read_tensor
from tune_gan.grids import GRIDS
from tune_gan.losses_file import LOSSES_FILE
from tune_gan.results.reports import MEASURES
from tune_gan.results.trials import (
    REPORTS_FILE,
    SAMPLES_FILE,
    TrialState,
    read_reports,
    trial_folder,
)
from tune_gan.search.searcher import StudySearch
from tune_gan.search.study import SweepStudy, SweepTrial
from tune_gan.search.trainable import CHECKPOINT

# What TensorBoard shows of a report; times are its own axis.
_TIMES = {"epoch", "train_time_s", "time_s", "reported_at"}
_REPORTED = {*MEASURES, "best_fid_proxy", "degenerate"} - _TIMES
_RANKED = (TrialState.COMPLETED.value, TrialState.STOPPED.value)


class Budget(tune.Stopper):
    """Ends a sweep whose time or iterations are spent: each trial stops at its next report.

    Args:
        study: The study.
        search: What gives out trials, and gives out no more once the budget is spent.
    """

    def __init__(self, study: SweepStudy, search: StudySearch) -> None:
        self._search, self._budget = search, study.spec.budget
        self._started = time.monotonic()
        self._iterations = {
            trial.number: reports[-1]["iteration"]
            for trial in study.trials
            if (reports := read_reports(trial_folder(study.folder, trial.number) / REPORTS_FILE))
        }
        self._total = self._total_before = sum(self._iterations.values())
        self.spent = ""
        self.check()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out everything when Tune pickles its settings, which nobody reads."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take in a report; return whether its trial stops."""
        if "iteration" in result:
            self._total += result["iteration"] - self._iterations.get(int(trial_id), 0)
            self._iterations[int(trial_id)] = result["iteration"]
        self.check()
        return self._search.is_over

    def check(self) -> None:
        """See whether the budget is spent."""
        if self._budget.time is not None and time.monotonic() - self._started >= self._budget.time:
            self.spent = f"its time of {self._budget.time:g} s is over"
        if self._budget.iterations is not None and self._total >= self._budget.iterations:
            self.spent = f"its {self._budget.iterations:,} iterations are spent"
        self._search.is_over = bool(self.spent)

    def seconds_left(self) -> float:
        """Return about how long the budget lasts, at the speed so far; infinite without one."""
        elapsed, total = time.monotonic() - self._started, self._total
        left = math.inf if self._budget.time is None else self._budget.time - elapsed
        speed = (total - self._total_before) / elapsed
        if self._budget.iterations is not None and speed:
            left = min(left, (self._budget.iterations - total) / speed)
        return max(left, 0.0)

    def stop_all(self) -> bool:
        """Stop no trial before its next report."""
        return False


class Supervisor(tune.Callback):
    """Notes failures, kills what hangs, keeps the best checkpoints, and ends a sweep that cannot write.

    Args:
        study: The study.
        search: What gives out trials.
        budget: The sweep's budget.
    """

    def __init__(self, study: SweepStudy, search: StudySearch, budget: Budget) -> None:
        self._study, self._search, self._budget = study, search, budget
        self._heard: dict[str, float] = {}
        # Of the trials that have ended: the scores of those whose checkpoints are kept, and the others.
        self._kept: dict[int, float] = {}
        self._removable: list[int] = []
        for trial in study.trials:
            self._rank(trial)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out everything when Tune pickles its settings, which nobody reads."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Begin to wait for a trial's first report."""
        self._heard[trial.trial_id] = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Begin to wait for a trial's next report."""
        self._heard[trial.trial_id] = time.monotonic()

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Note why a trial starts again."""
        cause = getattr(trial, "cause", "")
        self._heard.pop(trial.trial_id, None)
        self._study.note(int(trial.trial_id), f"started again: {cause}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Make room, and stop waiting."""
        self._heard.pop(trial.trial_id, None)
        self._keep_best_checkpoints(int(trial.trial_id))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Make room, and stop waiting."""
        self._heard.pop(trial.trial_id, None)
        self._keep_best_checkpoints(int(trial.trial_id))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """End what cannot go on, look at the clock, and kill what hangs."""
        if self._study.broken is not None:
            raise self._study.broken
        self._budget.check()
        if self._search.in_lanes:
            # One that waits for a lane reports nothing; what hangs ends itself, as `LaneTrainer` says.
            return
        limit, now = self._study.spec.failures.report_timeout, time.monotonic()
        for trial in self._search.live_trials():
            actor = trial.temporary_state.ray_actor
            if actor is not None and now - self._heard.get(trial.trial_id, now) > limit:
                self._heard.pop(trial.trial_id)
                trial.hung_s = limit
                ray.kill(actor)

    def _keep_best_checkpoints(self, number: int) -> None:
        """Remove the checkpoints of trials that have ended and are not among the best of the run."""
        self._rank(self._study.trial(number))
        # Until nothing is found: a process that was killed may write on for a moment.
        self._removable = [n for n in self._removable if self._remove(n)]

    def _rank(self, trial: SweepTrial) -> None:
        if trial.state in ("running", "pending"):
            return
        is_ranked = trial.state in _RANKED
        self._kept[trial.number] = (
            min(trial.reports.values(), default=math.inf) if is_ranked else math.inf
        )
        if len(self._kept) > self._study.spec.keep_checkpoints:
            worst = max(self._kept, key=lambda number: (self._kept[number], number))
            del self._kept[worst]
            self._removable.append(worst)

    def _remove(self, number: int) -> bool:
        """Remove a trial's checkpoint and pictures; return whether there were any."""
        parts = [trial_folder(self._study.folder, number) / name for name in (CHECKPOINT, GRIDS)]
        found = [part for part in parts if _is_there(part)]
        for part in found:
            shutil.rmtree(part, ignore_errors=True)
        return bool(found)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True


class _TrialEvents:
    """TensorBoard's events of a trial, which replace those of an earlier start of the sweep.

    Args:
        folder: The trial's folder.
        num_iterations: Of its whole training.
    """

    def __init__(self, folder: Path, num_iterations: int) -> None:
        self._folder = folder
        # Nobody knows how far an earlier start came with its own.
        self.file = EventFile(folder, purge_step=0)
        self._losses = LossScalars(self.file, folder / LOSSES_FILE, num_iterations)
        self.iteration = 0

    def add_past(self, iteration: int) -> None:
        """Write the reports before an iteration, and the losses until then."""
        for report in read_reports(self._folder / REPORTS_FILE):
            if report["iteration"] < iteration:
                self.add(report)

    def add(self, report: dict[str, Any]) -> None:
        """Write a report's numbers and the losses until then."""
        self.iteration = report["iteration"]
        numbers = {
            name: float(value)
            for name, value in report.items()
            if isinstance(value, float | bool) and name in _REPORTED
        }
        self.file.add_scalars(numbers, self.iteration, report.get("reported_at"))
        self._losses.add_until(self.iteration)
        self.file.flush()


class Curves(tune.Callback):
    """Writes TensorBoard's events of each trial into the trial's folder.

    Its scalars and its losses at every report; at its end its line of HPARAMS and its best samples.

    Args:
        study: The study.
    """

    def __init__(self, study: SweepStudy) -> None:
        self._study = study
        self._events: dict[str, _TrialEvents] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out everything when Tune pickles its settings, which nobody reads."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Write a report's numbers."""
        # Curves are worth no trial: a disk that is full stops the sweep elsewhere.
        with suppress(OSError, StorageError):
            reached, events = result.get("iteration", 0), self._events.get(trial.trial_id)
            if events is not None and reached < events.iteration:
                # The trial was begun anew.
                self._events.pop(trial.trial_id).file.close()
                events = None
            if events is None:
                folder = trial_folder(self._study.folder, int(trial.trial_id))
                events = _TrialEvents(folder, self._study.spec.gan.num_iterations)
                self._events[trial.trial_id] = events
                events.add_past(reached)
            # A trial that goes on tells its last report once more.
            if reached > events.iteration:
                events.add(result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close a trial's file, and write its hyperparameters."""
        number, result = int(trial.trial_id), trial.last_result or {}
        with suppress(OSError):
            ended = result.get("state") != "running" or getattr(trial, "stopped_by_scheduler", False)
            if trial.trial_id in self._events and ended:
                folder = trial_folder(self._study.folder, number)
                file = self._events.pop(trial.trial_id).file
                if (folder / SAMPLES_FILE).is_file():
                    picture = read_tensor(folder / SAMPLES_FILE)
                    file.add_picture("samples", picture, result.get("iteration", 0))
                file.close()
                config = GanConfig.parse({**self._study.spec.gan.model_dump(), **trial.config})
                scores = float(result["best_fid_proxy"]), float(result["fid_proxy"])
                write_hyperparameters(folder, config, *scores)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close a trial's file."""
        with suppress(OSError):
            if trial.trial_id in self._events:
                self._events.pop(trial.trial_id).file.close()

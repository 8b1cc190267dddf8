"""Where Ray Tune gets its trials from, and tells how they end: the run's study."""

import math
import re
from collections.abc import Iterable
from typing import Any

from ray import tune
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.experiment import Experiment, Trial
from ray.tune.search import SearchAlgorithm

from tune_gan.errors import ConfigError, StorageError
from tune_gan.results.trials import METRIC, read_reports, trial_folder
from tune_gan.search.cluster import living_nodes
from tune_gan.search.failures import TrialFailure
from tune_gan.search.sampler import draw
from tune_gan.search.scheduler import tune_trial_id
from tune_gan.search.spec import SweepSpec
from tune_gan.search.study import BY_SCHEDULER, SweepStudy, SweepTrial, objectives


class TuneTrial(Trial):
    """A trial of a sweep that knows which of its failures are worth another try.

    A crash is: `max_failures` times in a row without a report in between. Wrong input is not. Memory
    that was too short is, once, alone on its device; in lanes, which come to be fewer then, as a crash.
    """

    max_in_a_row = 0
    alone: Any = None
    hung_s = 0.0
    cause = ""
    kind = ""
    stopped_by_scheduler = False
    _in_a_row = 0
    _retry = False
    _was_alone = False
    _reached = 0

    def note_progress(self, iteration: int) -> None:
        """Take in a report; one that was made before is no progress."""
        if iteration > self._reached:
            self._reached, self._in_a_row = iteration, 0

    def handle_error(self, exc: Any = None) -> None:
        """Judge a failure, in place of Tune's files with pickled errors."""
        self.run_metadata.num_failures += 1
        self.run_metadata.invalidate_cache()
        self.kind, message = _describe(exc)
        if self.hung_s:
            message, self.hung_s = f"hung: no report for {self.hung_s:g} s, so it was killed", 0.0
        self._in_a_row += 1
        if self.kind == "memory" and self.alone is not None:
            self._retry = not self._was_alone
            message += "" if self._retry else ", also when it was alone on its device"
        else:
            is_chance = self.kind in ("crash", "memory")
            self._retry = is_chance and self._in_a_row <= self.max_in_a_row
            message += f" ({self._in_a_row} times in a row)" if self._in_a_row > 1 else ""
        self.cause = message

    def should_recover(self) -> bool:
        """Return whether the trial starts again from its last checkpoint."""
        return self._retry

    def update_last_result(self, result: dict[str, Any]) -> None:
        """Keep a report, without Tune's statistics of each of its numbers, which nobody reads.

        They would stay in memory after the trial's end.
        """
        super().update_last_result(result)  # type: ignore[no-untyped-call]
        self.run_metadata.metric_analysis.clear()
        self.run_metadata.metric_n_steps.clear()

    def set_status(self, status: str) -> None:
        """Take the status; a trial that wants its device for itself asks for it before it waits."""
        super().set_status(status)  # type: ignore[no-untyped-call]
        if status == Trial.ERROR and self._retry and self.kind == "memory" and self.alone is not None:
            self.update_resources(self.alone)
            self._was_alone = True


class StudySearch(SearchAlgorithm):
    """Gives Ray Tune the trials of a study, new ones and those to go on with, and tells it their ends.

    Trials that ended before the sweep was resumed come first, as Tune lists them, but do not run.
    Ray's own OptunaSearch tells trials that ASHA stopped as complete, so that TPE compares scores of
    different training lengths, and leaves those that fail running for ever.

    Args:
        study: The study of the run folder.
        num_workers: Trials at a time.
        warm_trials: Trials of other runs to learn from.
        trial_bytes: Memory that is reserved for each trial.
        in_lanes: Whether trials share the processes that train them: then none has a device for itself.
    """

    def __init__(
        self,
        study: SweepStudy,
        num_workers: int,
        warm_trials: Iterable[Any] = (),
        trial_bytes: int = 0,
        in_lanes: bool = False,
    ) -> None:
        self._study, self.num_workers = study, num_workers
        self._trial_bytes, self.in_lanes = trial_bytes, in_lanes
        self._warm_trials = list(warm_trials)
        trials = study.trials
        self._ended = [trial for trial in trials if trial.state not in ("pending", "running")]
        self._pending = [trial for trial in trials if trial.state == "pending"]
        self._given = study.spec.given_points()
        # Tune asks for it all the time, and a grid has to be laid out to be counted.
        self._num_trials = study.spec.num_trials
        self._live: dict[int, TuneTrial] = {}
        self._experiment: Experiment | None = None
        self.is_over = False
        self.problem: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out everything when Tune pickles its settings, which nobody reads."""
        return {}

    @property
    def metric(self) -> str:
        """What Tune is to find in each report."""
        return METRIC

    @property
    def total_samples(self) -> int:
        """Trials of the whole sweep."""
        return self._num_trials

    def add_configurations(self, experiments: Any) -> None:
        """Take the experiment that the trials are of."""
        (self._experiment,) = experiments if isinstance(experiments, list) else [experiments]

    def is_finished(self) -> bool:
        """Return whether there are no more trials to start."""
        if self._finished or self._ended:
            return self._finished
        if self.is_over:
            return True
        return not self._pending and self._study.has(self.total_samples - 1)

    def next_trial(self) -> Trial | None:
        """Return the next trial: one that has ended, one to go on with, a new one, or none for now."""
        if self._ended:
            return self._ended_trial(self._ended.pop(0))
        if self.is_finished() or len(self._live) >= self.num_workers:
            return None
        if self._pending:
            trial = self._pending.pop(0)
            self._study.start(trial.number)
        else:
            trial = self._study.add(self._next_point())
        self._live[trial.number] = self._tune_trial(trial)
        return self._live[trial.number]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hand on the score of a report, and what befell the trial."""
        number = int(trial_id)
        if number in self._live:
            self._live[number].note_progress(result["iteration"])
            self._study.report(number, result["evaluation"], float(result[METRIC]))
            if result["state"] == "running" and result["cause"]:
                self._study.note(number, result["cause"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how a trial ended; one that was cut short is to go on later."""
        number = int(trial_id)
        trial = self._live.get(number)
        if trial is None:
            return
        self._tell(number, trial, result, error)
        del self._live[number]

    def _tell(self, number: int, trial: TuneTrial, result: dict[str, Any] | None, error: bool) -> None:
        if error and trial.kind == "storage":
            self._study.requeue(number)
            self._study.broken = StorageError(trial.cause)
            raise self._study.broken
        if error:
            self._study.end(number, "failed", trial.cause)
        elif result is None or "state" not in result:
            self._study.requeue(number)
        elif result["state"] == "running" and not trial.stopped_by_scheduler:
            # Cut short by the budget.
            self._study.report(number, result["evaluation"], float(result[METRIC]))
            self._study.requeue(number)
        else:
            self._end(number, result)

    def live_trials(self) -> list[TuneTrial]:
        """Return the trials that wait or run."""
        return list(self._live.values())

    def close(self) -> None:
        """Leave the trials that have not ended to go on later."""
        for number in list(self._live):
            del self._live[number]
            self._study.requeue(number)

    def _end(self, number: int, result: dict[str, Any]) -> None:
        state, cause = result["state"], result["cause"]
        if state == "running":
            state, cause = "stopped", BY_SCHEDULER
        elif state in ("diverged", "collapsed"):
            cause = f"at iteration {result['iteration']}: {cause}"
        self._study.report(number, result["evaluation"], float(result[METRIC]))
        reports = read_reports(trial_folder(self._study.folder, number) / "result.json")
        self._study.end(number, state, cause, objectives(self._study.spec, reports))

    def _next_point(self) -> dict[str, Any]:
        trials = self._study.frozen_trials
        if len(trials) < len(self._given):
            return self._given[len(trials)]
        try:
            return draw(self._study.spec, len(trials), [*trials, *self._warm_trials])
        except ConfigError as error:
            self.problem = error
            raise

    def _tune_trial(self, trial: SweepTrial) -> TuneTrial:
        assert self._experiment is not None
        spec = self._experiment.spec
        made = TuneTrial(
            spec["run"],
            config=dict(trial.values),
            evaluated_params=dict(trial.values),
            trial_id=tune_trial_id(trial.number),
            experiment_tag=str(trial.number),
            storage=spec["storage"],
            checkpoint_config=spec["checkpoint_config"],
            log_to_file=spec["log_to_file"],
        )
        made.custom_trial_name = made.custom_dirname = f"trial_{trial.number:05d}"
        made.max_in_a_row = self._study.spec.failures.max_failures
        if not self.in_lanes:
            made.alone = _whole_device(self._study.spec, self._trial_bytes)
        return made

    def _ended_trial(self, trial: SweepTrial) -> TuneTrial:
        made = self._tune_trial(trial)
        reports = read_reports(trial_folder(self._study.folder, trial.number) / "result.json")
        if reports:
            made.update_last_result(dict(reports[-1]))
        made.set_status(Trial.TERMINATED)
        made.init_local_path()  # type: ignore[no-untyped-call]
        return made


def _whole_device(spec: SweepSpec, trial_bytes: int) -> tune.PlacementGroupFactory:
    """Return what a trial takes so that nothing runs beside it: whole GPUs, or a machine's CPUs."""
    resources = spec.resources
    bundle: dict[str, float] = {"memory": trial_bytes} if trial_bytes else {}
    if resources.num_gpus:
        bundle |= {"CPU": resources.cpus, "GPU": math.ceil(resources.num_gpus)}
    else:
        machines = [node["Resources"].get("CPU", 0) for node in living_nodes()]
        bundle |= {"CPU": max([resources.cpus, *machines])}
    return tune.PlacementGroupFactory([bundle])


def _describe(error: Any) -> tuple[str, str]:
    """Return the kind of a failure, and its cause in one line."""
    cause = getattr(error, "cause", error) if isinstance(error, RayTaskError) else error
    if isinstance(cause, TrialFailure):
        return cause.kind, cause.message
    if isinstance(cause, OutOfMemoryError):
        return "memory", f"its worker ran out of memory ({_first_line(cause)})"
    if isinstance(cause, RayActorError):
        detail = re.search(r"Worker exit detail: ([^.\n]*)", str(cause))
        return "crash", f"its worker died ({detail[1] if detail else _first_line(cause)})"
    return "crash", f"{type(cause).__name__}: {_first_line(cause)}"


def _first_line(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or ["no message"])[0][:300]

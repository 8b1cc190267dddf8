"""What a sweep shows while it runs: a bar on a terminal, a line for every finished trial."""

import time
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tune_gan.search.spec import SweepSpec


class SweepProgress(tune.Callback):
    """Shows a sweep's progress on a console.

    On a terminal a bar moves with every report; everywhere a finished trial gets one plain line with
    the time left, judged by the share of all trials that is done, each as far as it has reported.

    Args:
        spec: The sweep.
        console: Where to write.
    """

    def __init__(self, spec: SweepSpec, console: Console) -> None:
        self._spec, self._console = spec, console
        self._started = time.monotonic()
        self._num_finished = 0
        self._share_done: dict[str, float] = {}
        self._scores: dict[str, float] = {}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("trials, {task.fields[best]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(spec.name, total=spec.num_trials, best="starting", left="")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the console and its bar when Tune pickles its settings."""
        return {"_spec": self._spec}

    def setup(self, *args: Any, **info: Any) -> None:
        """Show the bar."""
        self._bar.start()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Take in a report."""
        self._share_done[trial.trial_id] = result["iteration"] / self._spec.gan.num_iterations
        self._scores[trial_number(trial)] = float(result["best_fid_proxy"])
        if result["state"] == "diverged":
            del self._scores[trial_number(trial)]
        self._bar.update(self._task, best=self._describe_best(), left=self._describe_left())

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell that a trial has ended, and how."""
        result = trial.last_result or {}
        if result.get("state") == "diverged":
            end = f"diverged at iteration {result['iteration']}: {result['cause']}"
        elif not result.get("iteration"):
            end = "ended without a report"
        else:
            done = result["iteration"] >= self._spec.gan.num_iterations
            end = f"{'completed' if done else 'stopped'} at iteration {result['iteration']}"
            end += f", best fid_proxy {result['best_fid_proxy']:.4g}"
        self._finish(trial, end)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell that a trial has failed."""
        self._scores.pop(trial_number(trial), None)
        self._finish(trial, "failed")

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Take the bar away."""
        self._bar.stop()

    def _finish(self, trial: Trial, end: str) -> None:
        self._num_finished += 1
        self._share_done[trial.trial_id] = 1.0
        left = self._describe_left()
        self._bar.update(self._task, completed=self._num_finished, left=left)
        counts = f"{self._num_finished}/{self._spec.num_trials}"
        note = ", ".join(part for part in (self._describe_best(), left) if part)
        line = f"[{counts}] trial {trial_number(trial)} {end} ({note})"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _describe_best(self) -> str:
        if not self._scores:
            return "no score yet"
        best = min(self._scores, key=lambda number: self._scores[number])
        return f"best {self._scores[best]:.4g} by trial {best}"

    def _describe_left(self) -> str:
        done = sum(self._share_done.values()) / self._spec.num_trials
        if not 0 < done < 1:
            return ""
        elapsed = time.monotonic() - self._started
        return f"about {_minutes(elapsed / done * (1 - done))} left"


def trial_number(trial: Trial) -> str:
    """Return a trial's number in its sweep, from 0; Ray counts them from 1 in the experiment tag."""
    return str(int(str(trial.experiment_tag).split("_", 1)[0]) - 1)


def _minutes(seconds: float) -> str:
    return f"{round(seconds)} s" if seconds < 90 else f"{round(seconds / 60)} min"

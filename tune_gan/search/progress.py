"""What a sweep shows while it runs: a bar on a terminal, a line for every finished trial."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tune_gan.results.trials import METRIC, describe_score
from tune_gan.search.spec import SweepSpec
from tune_gan.settings import describe_duration


class SweepProgress(tune.Callback):
    """Shows a sweep's progress on a console.

    On a terminal a bar moves with every report; everywhere a finished trial gets one plain line with
    the time left, judged by the share of all trials that is done, each as far as it has reported.

    Args:
        spec: The sweep.
        console: Where to write.
        scores: The best `ranking_score` of each trial that ended before this start; None without one.
        budget_left: Returns the seconds that the sweep's budget lasts.
    """

    def __init__(
        self,
        spec: SweepSpec,
        console: Console,
        scores: Mapping[int, float | None],
        budget_left: Callable[[], float],
    ) -> None:
        self._spec, self._console, self._budget_left = spec, console, budget_left
        self._started = time.monotonic()
        self._num_before = self._num_finished = len(scores)
        self._share_done: dict[str, float] = {}
        self._share_before: dict[str, float] = {}
        self._scores = {str(n): score for n, score in scores.items() if score is not None}
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
        self._task = self._bar.add_task(
            spec.name, total=spec.num_trials, completed=self._num_finished, best="starting", left=""
        )

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
        share = result["iteration"] / self._spec.gan.num_iterations
        # What a resumed trial had done before is not of this start's speed.
        self._share_before.setdefault(trial.trial_id, share if result["evaluation"] > 1 else 0.0)
        self._share_done[trial.trial_id] = share
        self._scores[trial_number(trial)] = float(result[METRIC])
        if result["state"] in ("diverged", "collapsed"):
            del self._scores[trial_number(trial)]
        self._bar.update(self._task, best=self._describe_best(), left=self._describe_left())

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell that a trial has ended, and how."""
        result = trial.last_result or {}
        state, where = result.get("state"), f"at iteration {result.get('iteration')}"
        if state in ("diverged", "collapsed"):
            end = f"{state} {where}: {result['cause']}"
        elif not result.get("iteration"):
            end = "ended without a report"
        elif state == "running" and not getattr(trial, "stopped_by_scheduler", False):
            line = f"trial {trial_number(trial)} set aside {where}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        else:
            state = "stopped" if state == "running" else state
            end = f"{state} {where}, best fid_proxy {describe_score(result[METRIC])}"
            end += f" ({result['cause']})" if state == "stopped" and result["cause"] else ""
        self._finish(trial, end)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell that a trial starts again."""
        cause = getattr(trial, "cause", "")
        line = f"trial {trial_number(trial)} starts again from its last checkpoint: {cause}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell that a trial has failed."""
        self._scores.pop(trial_number(trial), None)
        self._finish(trial, f"failed: {getattr(trial, 'cause', '')}")

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
        return f"best {describe_score(self._scores[best])} by trial {best}"

    def _describe_left(self) -> str:
        shares = self._share_done
        done = sum(share - self._share_before.get(trial, 0.0) for trial, share in shares.items())
        left = self._spec.num_trials - self._num_before - sum(shares.values())
        if done <= 0 or left <= 0:
            return ""
        elapsed = time.monotonic() - self._started
        seconds = min(elapsed / done * left, self._budget_left())
        return f"about {describe_duration(seconds)} left"


def trial_number(trial: Trial) -> str:
    """Return a trial's number in its sweep, from 0."""
    return str(int(trial.trial_id))

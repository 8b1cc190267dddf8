"""What a sweep shows while it runs: a live table on a terminal, a line for every finished trial."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console, RenderableType
from rich.live import Live

from tune_gan.results.standing import Running, Standing, standing_table
from tune_gan.results.trials import METRIC, describe_score
from tune_gan.search.study import SweepStudy
from tune_gan.settings import describe_duration


class SweepProgress(tune.Callback):
    """Shows a sweep's progress on a console.

    On a terminal a table says how the sweep stands; everywhere a finished trial gets one plain line
    with the time left, judged by the share of all trials that is done, each as far as it has reported.

    Args:
        study: The sweep's study.
        console: Where to write.
        scores: The best `ranking_score` of each trial that ended before this start; None without one.
        workers: How many trials run at a time.
        budget_left: Returns the seconds that the sweep's budget lasts.
    """

    def __init__(
        self,
        study: SweepStudy,
        console: Console,
        scores: Mapping[int, float | None],
        workers: int,
        budget_left: Callable[[], float],
    ) -> None:
        self._study, self._spec, self._console = study, study.spec, console
        self._workers, self._budget_left = workers, budget_left
        self._started = time.monotonic()
        self._num_trials = self._spec.num_trials
        self._num_finished = len(scores)
        # Of the trials that have not ended: their shares now, and when this start first heard of them.
        self._shares: dict[str, float] = {}
        self._shares_before: dict[str, float] = {}
        # What those that have ended did since this start.
        self._share_ended = 0.0
        self._iterations: dict[str, int] = {}
        self._iterations_spent = 0
        self._running: dict[str, Running] = {}
        self._scores = {str(n): score for n, score in scores.items() if score is not None}
        self._reported: dict[str, float] = {}
        self._live = Live(
            get_renderable=self._render, console=console, refresh_per_second=2, transient=True
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out everything when Tune pickles its settings, which nobody reads."""
        return {}

    def setup(self, *args: Any, **info: Any) -> None:
        """Show the table."""
        if self._console.is_terminal:
            self._live.start()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Count a trial among those at work."""
        number = trial_number(trial)
        self._running.setdefault(number, Running(int(number), 0.0, None))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Take in a report."""
        number, reached = trial_number(trial), int(result["iteration"])
        share = reached / self._spec.gan.num_iterations
        # What a resumed trial had done before is not of this start's speed.
        is_first = result["evaluation"] == 1
        self._shares_before.setdefault(number, 0.0 if is_first else share)
        self._shares[number] = share
        self._iterations_spent += reached - self._iterations.get(number, 0 if is_first else reached)
        self._iterations[number] = reached
        best = float(result[METRIC])
        if best < self._scores.get(number, float("inf")):
            self._reported[number] = time.monotonic()
        self._scores[number] = best
        self._running[number] = Running(int(number), share, float(result["fid_proxy"]))
        if result["state"] in ("diverged", "collapsed"):
            del self._scores[number]

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell that a trial has ended, and how."""
        result = trial.last_result or {}
        state, where = result.get("state"), f"at iteration {result.get('iteration')}"
        if state in ("diverged", "collapsed"):
            end = f"{state} {where}: {result['cause']}"
        elif not result.get("iteration"):
            end = "ended without a report"
        elif state == "running" and not getattr(trial, "stopped_by_scheduler", False):
            self._running.pop(trial_number(trial), None)
            line = f"{self._name(trial_number(trial))} set aside {where}"
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
        name = self._name(trial_number(trial))
        line = f"{name} starts again from its last checkpoint: {cause}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell that a trial has failed."""
        self._scores.pop(trial_number(trial), None)
        self._finish(trial, f"failed: {getattr(trial, 'cause', '')}")

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Take the table away."""
        self._live.stop()

    def _finish(self, trial: Trial, end: str) -> None:
        number = trial_number(trial)
        self._num_finished += 1
        self._share_ended += 1.0 - self._shares_before.pop(number, 0.0)
        for of_running in (self._shares, self._iterations, self._running):
            of_running.pop(number, None)
        left = self._describe_left()
        counts = f"{self._num_finished}/{self._num_trials}"
        note = ", ".join(part for part in (self._describe_best(), left) if part)
        line = f"[{counts}] {self._name(number)} {end} ({note})"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _describe_best(self) -> str:
        if not self._scores:
            return "no score yet"
        best = min(self._scores, key=lambda number: self._scores[number])
        return f"best {describe_score(self._scores[best])} by {self._name(best)}"

    def _name(self, number: str | int) -> str:
        how = self._spec.confirmation
        return f"trial {number}" if how is None else how.name_of(int(number))

    def _describe_left(self) -> str:
        seconds = self._seconds_left()
        return "" if seconds is None else f"about {describe_duration(seconds)} left"

    def _seconds_left(self) -> float | None:
        # Another thread asks while reports come in.
        shares = dict(self._shares)
        done = self._share_ended
        done += sum(share - self._shares_before.get(number, 0.0) for number, share in shares.items())
        left = self._num_trials - self._num_finished - sum(shares.values())
        if done <= 0 or left <= 0:
            return None
        elapsed = time.monotonic() - self._started
        return min(elapsed / done * left, self._budget_left())

    def _render(self) -> RenderableType:
        return standing_table(self.standing(), f"sweep {self._spec.name}", self._name)

    def standing(self) -> Standing:
        """Return how the sweep stands."""
        now = time.monotonic()
        scores, running = dict(self._scores), list(self._running.values())
        best = min(scores, key=lambda number: scores[number]) if scores else None
        known = {} if best is None else self._best(best, scores[best], now)
        spent = self._iterations_spent
        return Standing(
            self._num_trials,
            self._study.states,
            **known,
            iterations_per_s=spent / (now - self._started) if spent else None,
            running=running,
            num_workers=self._workers,
            seconds_left=self._seconds_left(),
        )

    def _best(self, number: str, score: float, now: float) -> dict[str, Any]:
        age = now - self._reported[number] if number in self._reported else None
        return {
            "best_trial": int(number),
            "best_score": score,
            "best_config": self._study.trial(int(number)).values,
            "best_age_s": age,
        }


def trial_number(trial: Trial) -> str:
    """Return a trial's number in its sweep, from 0."""
    return str(int(trial.trial_id))

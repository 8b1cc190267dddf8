"""ASHA, counting evaluations, seeded, and able to go on after a stop."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tune_gan.search.spec import SweepSpec

# The scores of a trial's reports so far, by their number from 1.
PastReports = Callable[[int], Mapping[int, float]]


def make_scheduler(spec: SweepSpec, past_reports: PastReports) -> TrialScheduler:
    """Return ASHA as a sweep asks for it, or what stops nothing."""
    if spec.scheduler.name == "none":
        return FIFOScheduler()
    return SweepAsha(spec, past_reports)


class SweepAsha(ASHAScheduler):
    """ASHA (Li et al. 2018, https://arxiv.org/abs/1810.05934) for sweeps.

    Its unit is the evaluation, so that rungs do not depend on `report_every`. It never stops the
    default configuration: its scores count as any other's, but the gain of tuning is only known if it
    is trained to its end. A trial's bracket is drawn by the search's seed and its number. What trials
    reported before the sweep was stopped is put into the rungs again.

    Args:
        spec: The sweep.
        past_reports: Gives the scores of a trial before this start of the sweep.
    """

    def __init__(self, spec: SweepSpec, past_reports: PastReports) -> None:
        super().__init__(
            time_attr="evaluation",
            # One more than there are, so that a trial ends by itself and not at the scheduler's word.
            max_t=spec.gan.num_reports + 1,
            grace_period=spec.grace_period,
            reduction_factor=spec.scheduler.reduction_factor,
            brackets=spec.scheduler.brackets,
        )
        self._seed, self._past_reports = spec.search.seed, past_reports

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Give a trial its bracket, and put what it has reported before into the rungs."""
        number = int(trial.trial_id)
        sizes = np.array([len(bracket._rungs) for bracket in self._brackets])
        shares = np.exp(sizes - sizes.max())
        # As Tune draws it, but from numbers of its own.
        chosen = np.random.default_rng([self._seed, number]).choice(len(sizes), p=shares / shares.sum())
        bracket = self._trial_info[trial.trial_id] = self._brackets[chosen]
        for evaluation, score in sorted(self._past_reports(number).items()):
            bracket.on_result(trial, evaluation, -score)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Return whether a trial goes on."""
        action = super().on_trial_result(tune_controller, trial, result)
        if trial.trial_id == DEFAULT_TRIAL_ID:
            return TrialScheduler.CONTINUE
        # What else may end a trial early looks the same to Tune.
        trial.stopped_by_scheduler = action == TrialScheduler.STOP  # type: ignore[attr-defined]
        return action


def tune_trial_id(number: int) -> str:
    """Return what Ray Tune calls a trial of that number."""
    return f"{number:05d}"


DEFAULT_TRIAL_ID = tune_trial_id(0)

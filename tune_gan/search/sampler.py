"""Draws points of a space: at random, or by Optuna's TPE from the trials so far."""

from collections.abc import Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_gan.errors import ConfigError
from tune_gan.search.spec import SweepSpec
from tune_gan.space import Value, in_order

# TPE, sure of a corner that the constraints forbid, draws there again and again: it gets so many draws,
# then chance has the rest.
_TPE_DRAWS = 50
_MOST_DRAWS = 1000
_LEARNT_FROM = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def draw(spec: SweepSpec, number: int, trials: Sequence[FrozenTrial]) -> dict[str, Value]:
    """Draw a point of a sweep's space that fulfils its constraints.

    TPE knows nothing of the constraints: where none of its draws fulfils them, the point is random.
    It depends on the search's seed, the number and the trials alone, so that a resumed sweep draws
    what an uninterrupted one would have drawn. The draw happens in a study in memory, whose draws that
    break a constraint leave no trace in the sweep's own.

    Args:
        spec: The sweep.
        number: Number of the trial to be.
        trials: What to learn from: complete trials by their score, pruned ones, as Optuna's TPE does,
            behind all complete ones and by how far they came, with two objectives as equals; and
            running ones, to keep away from.

    Raises:
        ConfigError: if hardly any point fulfils the constraints.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=spec.search.directions, sampler=_sampler(spec, number))
    learnt = [trial for trial in trials if trial.state in _LEARNT_FROM]
    if len(spec.search.objectives) > 1:
        learnt = [_without_reports(trial) for trial in learnt]
    study.add_trials(learnt)
    order = in_order(spec.space)
    for count in range(_MOST_DRAWS):
        if count == _TPE_DRAWS:
            study.sampler = optuna.samplers.RandomSampler(seed=_seed(spec, number))
        trial = study.ask()
        point: dict[str, Value] = {}
        for name in order:
            if spec.space[name].is_active(point):
                point[name] = spec.space[name].suggest(trial, name)
        if spec.allows(point):
            return point
        study.tell(trial, state=TrialState.FAIL)
    listed = ", ".join(map(str, spec.constraints))
    raise ConfigError(
        f"constraints: none of {_MOST_DRAWS:,} points drawn from the space fulfils {listed}; "
        "loosen them or narrow the space"
    )


def _without_reports(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial whose reports Optuna's TPE cannot compare, with more than one objective."""
    return create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=trial.distributions,
    )


def _sampler(spec: SweepSpec, number: int) -> optuna.samplers.BaseSampler:
    if spec.search.algorithm == "tpe":
        return optuna.samplers.TPESampler(seed=_seed(spec, number))
    return optuna.samplers.RandomSampler(seed=_seed(spec, number))


def _seed(spec: SweepSpec, number: int) -> int:
    return int(np.random.SeedSequence([spec.search.seed, number]).generate_state(1)[0])

"""Draws points of a space: at random, or by Optuna's TPE from the trials so far."""

import copy
from collections.abc import Container, Sequence

import numpy as np
import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

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
        trials: What TPE learns from: complete trials by their score, pruned ones, as Optuna's TPE
            does, behind all complete ones and by how far they came, with two objectives as equals; and
            running ones, to keep away from.

    Raises:
        ConfigError: if hardly any point fulfils the constraints.
    """
    # Each time it is set all loggers of the process forget what they know of their levels.
    if optuna.logging.get_verbosity() != optuna.logging.ERROR:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=_Lending(_lent(spec, trials)),
        directions=spec.search.directions,
        sampler=_sampler(spec, number),
    )
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


class _Lending(InMemoryStorage):
    """A study in memory that begins with trials of another, as they are; Optuna would copy each.

    Args:
        lent: The trials, by their number.
    """

    def __init__(self, lent: list[FrozenTrial]) -> None:
        super().__init__()
        self._lent = lent
        self._first_number = lent[-1].number + 1 if lent else 0

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial, numbered behind those that are lent."""
        trial_id = super().create_new_trial(study_id, template_trial)
        self.get_trial(trial_id).number += self._first_number
        return trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials that are lent, then those that were added."""
        lent = [trial for trial in self._lent if states is None or trial.state in states]
        added = super().get_all_trials(study_id, deepcopy, states)
        return [*(copy.deepcopy(lent) if deepcopy else lent), *added]


def _lent(spec: SweepSpec, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return what the sampler learns from, each trial numbered by its place."""
    if spec.search.algorithm != "tpe":
        return []
    # Optuna's TPE cannot compare them with more than one objective.
    with_reports = len(spec.search.objectives) == 1
    return [
        trial if with_reports and trial.number == place else _copied(trial, place, with_reports)
        for place, trial in enumerate(trials)
        if trial.state in _LEARNT_FROM
    ]


def _copied(trial: FrozenTrial, number: int, with_reports: bool) -> FrozenTrial:
    copied = copy.copy(trial)
    copied.number = number
    if not with_reports:
        copied.intermediate_values = {}
    return copied


def _sampler(spec: SweepSpec, number: int) -> optuna.samplers.BaseSampler:
    if spec.search.algorithm == "tpe":
        return optuna.samplers.TPESampler(seed=_seed(spec, number))
    return optuna.samplers.RandomSampler(seed=_seed(spec, number))


def _seed(spec: SweepSpec, number: int) -> int:
    return int(np.random.SeedSequence([spec.search.seed, number]).generate_state(1)[0])

"""The searcher that Ray Tune asks for configurations: an Optuna study, kept in the run folder."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher

from tune_gan.search.spec import SweepSpec

STORAGE_FILE = "optuna_journal.log"
METRIC = "best_fid_proxy"


class StudySearcher(Searcher):
    """Draws configurations from an Optuna study and tells it how each trial ended.

    The default configuration comes first, then all combinations of a grid or what the sampler draws.
    Ray's own OptunaSearch tells trials that ASHA stopped as complete, so that TPE compares scores of
    different training lengths; here they are told as pruned, with the score of every report, and
    trials that failed or diverged as failed. A default that lies outside the space is no trial of the
    study, which could not express it.

    Args:
        spec: The sweep.
        folder: The run folder, where the study is stored in a journal file.
    """

    def __init__(self, spec: SweepSpec, folder: Path) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._spec = spec
        self._distributions = {field: d.to_optuna() for field, d in spec.space.items()}
        self._study = optuna.create_study(
            study_name=folder.name,
            storage=JournalStorage(JournalFileBackend(str(folder / STORAGE_FILE))),
            sampler=_sampler(spec),
            direction="minimize",
        )
        self._given = list(_given_points(spec))
        self._open: dict[str, Trial] = {}

    # Ray's annotation forgets that a searcher says with a text that it has finished.
    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        """Return the next configuration's searched fields, or that there is none."""
        point = self._given.pop(0) if self._given else None
        if point is None and self._spec.search.algorithm == "grid":
            return Searcher.FINISHED
        if point is not None:
            if not all(self._spec.space[field].contains(v) for field, v in point.items()):
                return point
            self._study.enqueue_trial(point)
        trial = self._study.ask(self._distributions)
        trial.set_user_attr("tune_trial_id", trial_id)
        self._open[trial_id] = trial
        return dict(trial.params)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hand on the score of a report."""
        if trial_id in self._open:
            self._open[trial_id].report(float(result[METRIC]), step=result["training_iteration"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how a trial ended: complete, pruned or failed."""
        trial = self._open.pop(trial_id, None)
        if trial is None:
            return
        if error or not result or result.get("state") == "diverged":
            self._study.tell(trial, state=TrialState.FAIL)
        elif result["iteration"] >= self._spec.gan.num_iterations:
            self._study.tell(trial, float(result[METRIC]))
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def close(self) -> None:
        """Tell the trials of an interrupted sweep as failed, so that none runs for ever."""
        for trial_id in list(self._open):
            self.on_trial_complete(trial_id, error=True)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing but a marker: the study itself is in the run folder."""
        Path(checkpoint_path).write_text("{}", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing, as `save` wrote nothing."""


def _sampler(spec: SweepSpec) -> optuna.samplers.BaseSampler:
    if spec.search.algorithm == "tpe":
        return optuna.samplers.TPESampler(seed=spec.search.seed)
    return optuna.samplers.RandomSampler(seed=spec.search.seed)


def _given_points(spec: SweepSpec) -> Iterator[dict[str, Any]]:
    """Yield the default configuration, then a grid's other combinations, in the space's own order."""
    default = {
        field: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for field, value in spec.default_values.items()
    }
    yield default
    if spec.search.algorithm == "grid":
        values = [distribution.arguments for distribution in spec.space.values()]
        for combination in itertools.product(*values):
            point = dict(zip(spec.space, combination, strict=True))
            if point != default:
                yield point

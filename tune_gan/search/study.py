"""The trials of a run: an Optuna study in its folder, and the list that readers take from it.

The study is what a resumed sweep goes on from. Each trial is written into it before it starts, by its
number, which is also that of its folder and of Ray Tune's trial; and again when it ends. The list,
``trials.jsonl``, says the same in lines that need no Optuna. Either is rebuilt from the other.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_gan.errors import RunFolderError, StorageError
from tune_gan.files import append_line, write_whole
from tune_gan.results.trials import (
    METRIC,
    TRIALS_FILE,
    ListedTrial,
    finite,
    objective_of,
    ranking_score,
    read_trials,
)
from tune_gan.results.trials import TrialState as State
from tune_gan.search.spec import SweepSpec

STORAGE_FILE = "optuna_journal.log"
_SPEC = "spec"
_OTHER_VALUES = "other_values"
# Why a trial was stopped that had not come to its own end.
BY_SCHEDULER = "scheduler"

_StoredStudy = tuple[JournalStorage, optuna.Study]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepTrial:
    """A trial of a sweep.

    Attributes:
        number: From 0, which is the default configuration.
        values: Its searched fields.
        state: As `tune_gan.results.load.TrialState` has it.
        cause: Why it ended so.
        reports: The best `ranking_score` by the number of the report, from 1.
    """

    number: int
    values: dict[str, Any]
    state: str
    cause: str = ""
    reports: dict[int, float] = field(default_factory=dict)


class SweepStudy:
    """The study of a run folder, which the caller has locked.

    Args:
        folder: The run folder.
        spec: The sweep; by default what the study was created with.

    Raises:
        RunFolderError: if the study and the list of trials are both missing or damaged.
        StorageError: if they cannot be read or written.
    """

    def __init__(self, folder: Path, spec: SweepSpec | None = None) -> None:
        self.folder = folder
        self.broken: StorageError | None = None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if spec is None:
            self._storage, self._study = _open(folder)
        else:
            write_whole(folder / TRIALS_FILE, "")
            self._storage, self._study = _create(folder, spec, folder / STORAGE_FILE)
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self.spec = SweepSpec.parse(json.loads(self._study.user_attrs[_SPEC]))
        self._distributions = {name: d.to_optuna() for name, d in self.spec.space.items()}

    def change_spec(self, spec: SweepSpec) -> None:
        """Go on with another number of trials or another budget."""
        with self._writing():
            self._study.set_user_attr(_SPEC, json.dumps(spec.model_dump(mode="json")))
        self.spec = spec

    @property
    def frozen_trials(self) -> list[FrozenTrial]:
        """The trials as Optuna has them."""
        with self._reading():
            return self._study.get_trials(deepcopy=False)

    @property
    def trials(self) -> list[SweepTrial]:
        """All trials, by their number."""
        return [_from_frozen(trial) for trial in self.frozen_trials]

    @property
    def states(self) -> Counter[str]:
        """How many trials are in which state."""
        return Counter(_state(trial) for trial in self.frozen_trials)

    def trial(self, number: int) -> SweepTrial:
        """Return one trial, at no more cost where there are thousands."""
        return _from_frozen(self._frozen(number))

    def has(self, number: int) -> bool:
        """Return whether there is a trial of that number, at no more cost where there are thousands."""
        with self._reading():
            try:
                self._id(number)
            except KeyError:
                return False
        return True

    def add(self, values: Mapping[str, Any]) -> SweepTrial:
        """Write down a new trial that is about to start.

        Args:
            values: Its searched fields. What its distribution cannot draw, such as a default outside
                of the space, is kept beside the parameters.
        """
        space = self.spec.space
        inside = {name: v for name, v in values.items() if name in space and space[name].contains(v)}
        others = {name: v for name, v in values.items() if name not in inside}
        trial = create_trial(
            state=TrialState.RUNNING,
            params=inside,
            distributions={name: self._distributions[name] for name in inside},
            user_attrs={_OTHER_VALUES: others} if others else {},
        )
        with self._writing():
            trial_id = self._storage.create_new_trial(self._study_id, template_trial=trial)
        # Not simply the last, which may be another process's.
        with self._reading():
            added = _from_frozen(self._storage.get_trial(trial_id))
        self._list(added.number, "running", "", added.values)
        return added

    def start(self, number: int) -> None:
        """Write down that a pending trial goes on."""
        with self._writing():
            self._set_state(number, TrialState.RUNNING)
        self._list(number, "running", "")

    def requeue(self, number: int) -> None:
        """Write down that a trial was interrupted and is to go on later."""
        with self._writing():
            self._set_state(number, TrialState.WAITING)
        self._list(number, "pending", "interrupted")

    def report(self, number: int, evaluation: int, score: float) -> None:
        """Write down the best score of a trial at a report."""
        with self._writing():
            if evaluation not in self._frozen(number).intermediate_values:
                self._storage.set_trial_intermediate_value(self._id(number), evaluation, score)

    def note(self, number: int, cause: str) -> None:
        """Write down what befell a trial that goes on."""
        self._list(number, "running", cause)

    def end(self, number: int, state: str, cause: str, objectives: list[float] | None = None) -> None:
        """Write down how a trial ended.

        Args:
            number: The trial.
            state: A trial that came to its own end, at its last iteration, past its best or at its
                time limit, is told to Optuna as complete; one that the scheduler stopped as pruned;
                one that diverged, collapsed or failed as failed.
            cause: Why.
            objectives: The values of the search's objectives, where it has come to its own end.
        """
        with self._writing():
            if not self._frozen(number).state.is_finished():
                self._storage.set_trial_user_attr(self._id(number), "state", state)
                self._storage.set_trial_user_attr(self._id(number), "cause", cause)
                self._tell(number, _told(state, cause), objectives)
        self._list(number, state, cause)

    def settle(self) -> None:
        """Bring a study that was left behind into order: no trial runs, and the list says the same."""
        for aside in self.folder.glob(".*.tmp"):
            aside.unlink(missing_ok=True)
        for trial in self.frozen_trials:
            if trial.state == TrialState.RUNNING:
                with self._writing():
                    self._set_state(trial.number, TrialState.WAITING)
        lines = [_line(t.number, t.state, t.cause, t.values) for t in self.trials]
        with self._writing():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            write_whole(self.folder / TRIALS_FILE, text)

    def _tell(self, number: int, told: TrialState, objectives: list[float] | None) -> None:
        if told == TrialState.COMPLETE and objectives is None:
            told = TrialState.FAIL
        values = objectives if told == TrialState.COMPLETE else None
        self._study.tell(number, values, state=told)

    def _set_state(self, number: int, state: TrialState) -> None:
        self._storage.set_trial_state_values(self._id(number), state)

    def _frozen(self, number: int) -> FrozenTrial:
        with self._reading():
            return self._storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _list(
        self, number: int, state: str, cause: str, values: Mapping[str, Any] | None = None
    ) -> None:
        with self._writing():
            append_line(self.folder / TRIALS_FILE, _line(number, state, cause, values))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self.folder / STORAGE_FILE
            raise StorageError(f"{path} cannot be read ({error.strerror or error})") from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write nothing more once something could not be written: half a line may be there."""
        if self.broken is not None:
            raise self.broken
        try:
            yield
        except OSError as error:
            path = self.folder / STORAGE_FILE
            self.broken = StorageError(f"{path} cannot be written ({error.strerror or error})")
            raise self.broken from None
        except StorageError as error:
            self.broken = error
            raise


def _create(folder: Path, spec: SweepSpec, path: Path) -> _StoredStudy:
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            study_name=folder.name, storage=storage, directions=spec.search.directions
        )
        study.set_user_attr(_SPEC, json.dumps(spec.model_dump(mode="json")))
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None
    return storage, study


def _open(folder: Path) -> _StoredStudy:
    path = folder / STORAGE_FILE
    content: bytes | None = None
    try:
        content = path.read_bytes()
        _cut_back(path)
        storage, study = _load(path)
        _catch_up(folder, storage, study)
        return storage, study
    except FileNotFoundError:
        problem = "is missing"
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror or error})") from None
    # What a damaged line makes Optuna raise is not to be foreseen.
    except Exception as error:
        problem = f"is damaged ({' '.join(str(error).split())[:100] or type(error).__name__})"
    return _rebuild(folder, problem, content)


def _load(path: Path) -> _StoredStudy:
    storage = JournalStorage(JournalFileBackend(str(path)))
    (summary,) = storage.get_all_studies()
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    SweepSpec.parse(json.loads(study.user_attrs[_SPEC]))
    trials = study.get_trials(deepcopy=False)
    if [trial.number for trial in trials] != list(range(len(trials))):
        raise ValueError("trials are missing in it")
    if not all({"state", "cause"} <= set(t.user_attrs) for t in trials if t.state.is_finished()):
        raise ValueError("it does not say how a trial ended")
    return storage, study


def _cut_back(path: Path) -> None:
    """Cut a journal back to its last whole line.

    Optuna itself would write on behind half a line, and be unable to read it ever after.
    """
    # Left behind by a process that was killed; the run folder's own lock is ours.
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    content = path.read_bytes()
    kept = content[: content.rfind(b"\n") + 1]
    lines = kept.splitlines(keepends=True)
    while lines and not _is_json(lines[-1]):
        lines.pop()
    if len(whole := b"".join(lines)) < len(content):
        _log.warning("%s: cut back by %d bytes to its last whole line", path, len(content) - len(whole))
        write_whole(path, whole)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _catch_up(folder: Path, storage: JournalStorage, study: optuna.Study) -> None:
    """Add to a study what the list of trials alone knows, since the end of the journal was lost."""
    if not (folder / TRIALS_FILE).is_file():
        return
    spec = SweepSpec.parse(json.loads(study.user_attrs[_SPEC]))
    listed = {trial.number: trial for trial in _listed(folder, spec)}
    known = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    behind = [
        number
        for number, trial in listed.items()
        if number not in known
        or (trial.state not in (State.RUNNING, State.PENDING) and not known[number].state.is_finished())
    ]
    if not behind:
        return
    path = folder / STORAGE_FILE
    _log.warning("%s lacks the end of %d trials, taken from %s", path, len(behind), TRIALS_FILE)
    for number in range(max(listed) + 1):
        if number not in known:
            study.add_trial(_to_frozen(listed.get(number, _lost(number)), spec))
        elif number in behind:
            frozen = _to_frozen(listed[number], spec)
            study_id = storage.get_study_id_from_name(study.study_name)
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
            for step, score in frozen.intermediate_values.items():
                if step not in known[number].intermediate_values:
                    storage.set_trial_intermediate_value(trial_id, step, score)
            for name in ("state", "cause"):
                storage.set_trial_user_attr(trial_id, name, frozen.user_attrs[name])
            storage.set_trial_state_values(trial_id, frozen.state, frozen.values)


def _lost(number: int) -> ListedTrial:
    return ListedTrial(number, State.FAILED, "lost with the study", {})


def _listed(folder: Path, spec: SweepSpec) -> list[ListedTrial]:
    """Return the trials of the list that the sweep can have, none where the list is damaged."""
    try:
        return [trial for trial in read_trials(folder) if trial.number < spec.num_trials]
    except RunFolderError:
        return []


def _rebuild(folder: Path, problem: str, content: bytes | None) -> _StoredStudy:
    """Make the study anew from `sweep.yaml` and the list of trials."""
    path = folder / STORAGE_FILE
    spec = SweepSpec.from_yaml(folder / "sweep.yaml")
    listed = {t.number: t for t in _listed(folder, spec)} if (folder / TRIALS_FILE).is_file() else {}
    if not listed and list(folder.glob("trial_*")):
        raise RunFolderError(
            f"{path} {problem}, and {TRIALS_FILE} holds no trials to make it anew from; "
            "start a new sweep"
        )
    if listed:
        _log.warning("%s %s: made anew from %s, %d trials", path, problem, TRIALS_FILE, len(listed))
    # Aside, and moved into place when it is whole.
    aside = path.with_name(f"{path.name}.new")
    aside.unlink(missing_ok=True)
    _, study = _create(folder, spec, aside)
    for number in range(max(listed, default=-1) + 1):
        study.add_trial(_to_frozen(listed.get(number, _lost(number)), spec))
    if content is not None:
        write_whole(path.with_name(f"{path.name}.damaged"), content)
    aside.replace(path)
    return _load(path)


def _to_frozen(trial: ListedTrial, spec: SweepSpec) -> FrozenTrial:
    space = spec.space
    distributions = {name: space[name].to_optuna() for name in trial.values if name in space}
    inside = {n: v for n, v in trial.values.items() if n in space and space[n].contains(v)}
    others = {name: v for name, v in trial.values.items() if name not in inside}
    scores = running_best(trial.reports)
    state = _told(trial.state.value, trial.cause)
    if trial.state in (State.RUNNING, State.PENDING):
        state = TrialState.WAITING
    values = None
    if state == TrialState.COMPLETE:
        values = objectives(spec, trial.reports)
        state = state if values else TrialState.FAIL
    elif state == TrialState.PRUNED and not scores:
        state = TrialState.FAIL
    attributes = {"state": trial.state.value, "cause": trial.cause} if state.is_finished() else {}
    return create_trial(
        state=state,
        values=values,
        params=inside,
        distributions={name: distributions[name] for name in inside},
        user_attrs={**attributes, **({_OTHER_VALUES: others} if others else {})},
        intermediate_values=scores,
    )


def _told(state: str, cause: str) -> TrialState:
    if state == "completed" or (state == "stopped" and cause != BY_SCHEDULER):
        return TrialState.COMPLETE
    return TrialState.PRUNED if state == "stopped" else TrialState.FAIL


def running_best(reports: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return the best `ranking_score` up to each report, by the number of the report, from 1."""
    scores, best = {}, float("inf")
    for i, report in enumerate(reports, start=1):
        best = min(best, ranking_score(report))
        told = finite(report, METRIC)
        scores[int(report.get("evaluation", i))] = best if told is None else told
    return scores


def objectives(spec: SweepSpec, reports: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Return the values of a trial's objectives by its reports; None if one is missing."""
    if not reports:
        return None
    values = [min(map(ranking_score, reports))]
    for name in spec.search.objectives[1:]:
        value = objective_of(reports, name)
        if value is None:
            return None
        values.append(value)
    return values


def _from_frozen(trial: FrozenTrial) -> SweepTrial:
    others = trial.user_attrs.get(_OTHER_VALUES, {})
    state, cause = _state(trial), ""
    if trial.state.is_finished():
        cause = str(trial.user_attrs["cause"])
    elif state == "pending":
        cause = "interrupted"
    values = {**trial.params, **others}
    return SweepTrial(trial.number, values, state, cause, dict(trial.intermediate_values))


def _state(trial: FrozenTrial) -> str:
    if trial.state.is_finished():
        return str(trial.user_attrs["state"])
    return "pending" if trial.state == TrialState.WAITING else "running"


def _line(number: int, state: str, cause: str, values: Mapping[str, Any] | None) -> dict[str, Any]:
    line: dict[str, Any] = {"trial": number, "state": state, "cause": cause}
    if values is not None:
        line["config"] = dict(values)
    return line

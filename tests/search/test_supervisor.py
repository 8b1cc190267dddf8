from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.experiment import Experiment, Trial

from tune_gan.files import append_line
from tune_gan.grids import GRIDS
from tune_gan.results.trials import METRIC, REPORTS_FILE, trial_folder
from tune_gan.search.scheduler import tune_trial_id
from tune_gan.search.searcher import StudySearch
from tune_gan.search.spec import SweepSpec
from tune_gan.search.study import SweepStudy
from tune_gan.search.supervisor import Budget, Supervisor
from tune_gan.search.trainable import CHECKPOINT

SPEC: dict[str, Any] = {
    "name": "test",
    "gan": {"preset": "circle", "num_iterations": 300, "report_every": 30},
    "space": {"gen_lr": {"log_uniform": [1e-5, 1e-2]}},
    "search": {"algorithm": "random", "num_trials": 100, "seed": 2},
    "resources": {"cpus": 2, "gpus": 0.25},
    "keep_checkpoints": 3,
}
ENDS = ("completed", "stopped", "diverged", "collapsed", "failed")


class _Run:
    """A start, or a resumption, of a sweep whose trials end as they are told to."""

    def __init__(self, folder: Path, experiment: Experiment, **changes: Any) -> None:
        is_new = not folder.exists()
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.study = SweepStudy(folder, SweepSpec.parse({**SPEC, **changes}) if is_new else None)
        self.study.settle()
        self.search = StudySearch(self.study, 100)
        self.search.add_configurations([experiment])
        self.budget = Budget(self.study, self.search)
        self.supervisor = Supervisor(self.study, self.search, self.budget)

    def begin(self) -> int:
        number = self.study.add({"gen_lr": 1e-3}).number
        self.write(number)
        return number

    def write(self, number: int) -> None:
        """Write what a trial keeps to go on from."""
        for part in (CHECKPOINT, GRIDS):
            (trial_folder(self.folder, number) / part).mkdir(parents=True, exist_ok=True)
            (trial_folder(self.folder, number) / part / "file").touch()

    def end(self, number: int, state: str, *scores: float) -> None:
        for evaluation, score in enumerate(scores, start=1):
            self.study.report(number, evaluation, score)
        if state == "pending":
            self.study.requeue(number)
        else:
            self.study.end(number, state, "", [min(scores)] if scores else None)
        self.tell(number, state)

    def tell(self, number: int, state: str = "") -> None:
        trial = Trial("dummy", stub=True, trial_id=tune_trial_id(number))
        on_end = (
            self.supervisor.on_trial_error if state == "failed" else self.supervisor.on_trial_complete
        )
        on_end(1, [], trial)

    def kept(self) -> set[int]:
        """Return the trials that have both their checkpoint and their pictures."""
        parts = {part: self.folder.glob(f"trial_*/{part}") for part in (CHECKPOINT, GRIDS)}
        of = {part: {int(path.parent.name[6:]) for path in paths} for part, paths in parts.items()}
        assert of[CHECKPOINT] == of[GRIDS]
        return of[CHECKPOINT]

    def best(self) -> set[int]:
        """Return the trials that are to be kept: the best that have ended, and those that have not."""
        scores = {}
        for trial in self.study.trials:
            if trial.state in ENDS:
                is_ranked = trial.state in ("completed", "stopped")
                score = min(trial.reports.values(), default=float("inf"))
                scores[trial.number] = score if is_ranked else float("inf")
        best = sorted(scores, key=lambda number: (scores[number], number))[:3]
        return {*best, *(trial.number for trial in self.study.trials if trial.state not in ENDS)}


def _nothing(config: dict[str, Any]) -> None:
    pass


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., _Run]:
    experiment = Experiment("run", run=_nothing, storage_path=str(tmp_path / "storage"))
    return lambda **changes: _Run(tmp_path / "run", experiment, **changes)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_that_have_ended_keep_their_checkpoints(start: Callable[..., _Run], seed: int) -> None:
    rng, run = np.random.default_rng(seed), start()
    live = [run.begin() for _ in range(4)]
    for count in range(24):
        number = live.pop(rng.integers(len(live)))
        state = str(rng.choice([*ENDS, "completed", "stopped", "pending"]))
        scores = [float(score) for score in rng.integers(6, size=rng.integers(4))]
        # Optuna takes nothing for complete, or pruned, that has no score.
        run.end(number, state if scores or state == "failed" else "failed", *scores)
        assert run.kept() == run.best()
        live.append(run.begin())
        if count % 10 == 9:
            # What the last start left behind goes when the first trial of this one ends.
            run.write(0)
            run = start()
            live = [trial.number for trial in run.study.trials if trial.state == "pending"]
            for number in live:
                run.study.start(number)


def test_what_was_written_after_its_removal_goes_when_the_next_trial_ends(
    start: Callable[..., _Run],
) -> None:
    run = start()
    for score in (1.0, 2.0, 3.0, 4.0):
        run.end(run.begin(), "completed", score)
    run.write(3)
    run.end(run.begin(), "completed", 5.0)
    assert run.kept() == {0, 1, 2}


def test_what_cannot_be_removed_is_tried_again(
    start: Callable[..., _Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start()
    with monkeypatch.context() as patch:
        patch.setattr("tune_gan.search.supervisor.shutil.rmtree", lambda path, ignore_errors: None)
        for score in (1.0, 2.0, 3.0, 4.0, 5.0):
            run.end(run.begin(), "completed", score)
        assert run.kept() == {0, 1, 2, 3, 4}
    run.end(run.begin(), "completed", 6.0)
    assert run.kept() == {0, 1, 2}


def test_a_trial_whose_end_is_told_twice_takes_one_place(start: Callable[..., _Run]) -> None:
    run = start()
    for score in (1.0, 2.0, 3.0):
        number = run.begin()
        run.end(number, "completed", score)
        run.tell(number, "failed")
    assert run.kept() == {0, 1, 2}


def test_iterations_of_all_starts_are_spent(start: Callable[..., _Run]) -> None:
    run = start(budget={"iterations": 200})
    path = trial_folder(run.folder, run.begin()) / REPORTS_FILE
    for evaluation, iteration in enumerate((30, 60, 90), start=1):
        report = {"iteration": iteration, "evaluation": evaluation, "fid_proxy": 1.0, METRIC: 1.0}
        append_line(path, report)
        assert not run.budget(tune_trial_id(0), report)
    resumed = start()
    number = resumed.begin()
    # Begun anew from its last checkpoint, and the report is told once more.
    assert not resumed.budget(tune_trial_id(0), {"iteration": 60})
    assert not resumed.budget(tune_trial_id(number), {"iteration": 120})
    assert not resumed.budget(tune_trial_id(number), {})
    assert resumed.budget.spent == ""
    assert resumed.budget(tune_trial_id(0), {"iteration": 90})
    assert resumed.budget.spent == "its 200 iterations are spent"
    assert resumed.search.is_over

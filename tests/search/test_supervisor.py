from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ray.tune.experiment import Experiment, Trial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.gan.test_loss_scalars import expected, points_of, rows_of
from tests.limits import largest_file
from tune_gan.files import append_line
from tune_gan.grids import GRIDS
from tune_gan.losses_file import LOSSES_FILE, keep_losses_until, write_losses
from tune_gan.results.trials import METRIC, REPORTS_FILE, SAMPLES_FILE, trial_folder
from tune_gan.search.scheduler import tune_trial_id
from tune_gan.search.searcher import StudySearch
from tune_gan.search.spec import SweepSpec
from tune_gan.search.study import SweepStudy
from tune_gan.search.supervisor import Budget, Curves, Supervisor
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


class _Told:
    """A trial that trains with a report every 30 iterations, and what TensorBoard shows of it."""

    def __init__(self, run: _Run) -> None:
        number = run.study.add({"gen_lr": 1e-3}).number
        self.folder, self._run = trial_folder(run.folder, number), run
        self.folder.mkdir()
        self.trial = Trial("dummy", stub=True, trial_id=tune_trial_id(number))
        self.curves = Curves(run.study)

    def train(self, *iterations: int, is_heard: bool = True) -> None:
        for iteration in iterations:
            write_losses(self.folder / LOSSES_FILE, iteration, rows_of(iteration - 30, iteration))
            append_line(self.folder / REPORTS_FILE, self.report(iteration))
            if is_heard:
                self.hear(iteration)

    def hear(self, iteration: int) -> None:
        result = {**self.report(iteration), "done": False, "pid": 1}
        self.curves.on_trial_result(1, [], self.trial, result)

    def start_again(self) -> None:
        self.curves = Curves(self._run.study)

    def report(self, iteration: int) -> dict[str, Any]:
        numbers = {"gen_loss": 0.5, "gen_loss_std": iteration / 4, "degenerate": False}
        return {
            "iteration": iteration,
            "fid_proxy": float(iteration),
            "time_s": 1.0,
            "reported_at": 1e9 + iteration,
            **numbers,
        }

    def reports(self, tag: str = "fid_proxy") -> list[tuple[int, float, float]]:
        events = EventAccumulator(str(self.folder), {"scalars": 0}).Reload()
        return [(event.step, event.value, event.wall_time) for event in events.Scalars(tag)]

    def assert_shown(self, *iterations: int) -> None:
        """See that every report until the last is there once, and every iteration."""
        assert self.reports() == [(i, float(i), 1e9 + i) for i in iterations]
        assert points_of(self.folder) == expected(list(range(1, iterations[-1] + 1)))


def test_tensorboard_has_the_numbers_of_reports_and_the_losses_of_iterations(
    start: Callable[..., _Run],
) -> None:
    told = _Told(start())
    told.train(30, 60)
    told.assert_shown(30, 60)
    assert [value for _, value, _ in told.reports("gen_loss_std")] == [7.5, 15.0]
    tags = EventAccumulator(str(told.folder)).Reload().Tags()["scalars"]
    assert set(tags) == {"fid_proxy", "gen_loss", "gen_loss_std", "degenerate", *expected([])}


def test_a_trial_that_goes_on_tells_its_last_report_again_and_shows_it_once(
    start: Callable[..., _Run],
) -> None:
    told = _Told(start())
    told.train(30, 60)
    told.hear(60)
    told.train(90)
    told.assert_shown(30, 60, 90)


@pytest.mark.parametrize("is_heard", [True, False])
def test_after_a_resume_every_point_is_there_once(is_heard: bool, start: Callable[..., _Run]) -> None:
    told = _Told(start())
    told.train(30)
    told.train(60, is_heard=is_heard)
    told.start_again()
    told.hear(60)
    told.assert_shown(30, 60)
    told.train(90)
    told.assert_shown(30, 60, 90)


@pytest.mark.parametrize("is_resumed", [True, False])
def test_a_trial_that_is_begun_anew_shows_its_new_start(
    is_resumed: bool, start: Callable[..., _Run]
) -> None:
    told = _Told(start())
    told.train(30, 60, 90)
    keep_losses_until(told.folder / LOSSES_FILE, 0)
    (told.folder / REPORTS_FILE).unlink()
    if is_resumed:
        told.start_again()
    told.train(30)
    told.assert_shown(30)
    told.train(60)
    told.assert_shown(30, 60)


def test_losses_of_a_report_that_is_not_heard_yet_wait_for_it(start: Callable[..., _Run]) -> None:
    told = _Told(start())
    told.train(30, 60, is_heard=False)
    told.hear(30)
    told.assert_shown(30)
    told.hear(60)
    told.assert_shown(30, 60)


def test_a_trial_without_losses_has_its_reports(start: Callable[..., _Run]) -> None:
    told = _Told(start())
    append_line(told.folder / REPORTS_FILE, told.report(30))
    told.hear(30)
    assert [step for step, _, _ in told.reports()] == [30]
    assert points_of(told.folder) == {}


def test_at_its_end_a_trial_shows_its_samples_and_its_line_of_hyperparameters(
    start: Callable[..., _Run],
) -> None:
    told = _Told(start())
    told.train(30)
    Image.new("RGB", (9, 8)).save(told.folder / SAMPLES_FILE)
    told.trial.config = {"gen_lr": 1e-3}
    told.trial.run_metadata.last_result = {
        **told.report(30),
        "best_fid_proxy": 25.0,
        "state": "completed",
    }
    told.curves.on_trial_complete(1, [], told.trial)
    events = EventAccumulator(str(told.folder)).Reload()
    (picture,) = events.Images("samples")
    assert (picture.step, picture.height, picture.width) == (30, 8, 9)
    scores = [events.Scalars(f"hparam/{name}_fid_proxy")[0].value for name in ("best", "last")]
    assert scores == [25.0, 30.0]
    told.assert_shown(30)


def test_curves_that_cannot_be_written_or_read_end_nothing(
    start: Callable[..., _Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _Told(start())
    told.train(30)
    with monkeypatch.context() as patch:
        patch.setattr("tune_gan.losses_file.np.fromfile", _fail)
        told.train(60)
    told.train(90)
    told.assert_shown(30, 60, 90)
    with largest_file(10_000):
        told.train(120, 150)
    told.start_again()
    told.hear(150)
    told.assert_shown(30, 60, 90, 120, 150)


def _fail(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")

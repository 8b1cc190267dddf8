import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial
from ray import tune
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.experiment import Experiment, Trial

from tune_gan.errors import ConfigError, StorageError
from tune_gan.files import append_line
from tune_gan.results.trials import METRIC, read_trials, trial_folder
from tune_gan.search.failures import TrialFailure
from tune_gan.search.sampler import draw
from tune_gan.search.searcher import StudySearch, TuneTrial
from tune_gan.search.spec import SweepSpec
from tune_gan.search.study import SweepStudy

# With a share of a GPU nothing asks Ray what the machine has, so that these tests need no Ray.
SPEC: dict[str, Any] = {
    "name": "test",
    "gan": {"preset": "circle", "disc_steps": 1, "num_iterations": 300, "report_every": 30},
    "space": {"gen_lr": {"log_uniform": [1e-5, 1e-2]}, "disc_steps": {"choice": [1, 2, 5]}},
    "search": {"algorithm": "tpe", "num_trials": 6, "seed": 2},
    "resources": {"cpus": 2, "gpus": 0.25},
    "failures": {"max_failures": 3},
}
DEFAULT = {"gen_lr": 1e-3, "disc_steps": 1}
WHOLE_GPU = [{"CPU": 2, "GPU": 1}]


def _trial(max_in_a_row: int = 2, alone: bool = False) -> TuneTrial:
    trial = TuneTrial("dummy", stub=True, trial_id="00001")
    trial.max_in_a_row = max_in_a_row
    trial.alone = tune.PlacementGroupFactory([{"CPU": 8}]) if alone else None
    return trial


def _fails(trial: TuneTrial, error: Exception) -> bool:
    """Let a trial fail as Ray Tune does, and return whether it is to be tried again."""
    trial.handle_error(error)
    trial.set_status(Trial.ERROR)
    return trial.should_recover()


@pytest.mark.parametrize(
    ("error", "kind", "cause"),
    [
        (TrialFailure("input", "a.png is no image"), "input", "a.png is no image"),
        (TrialFailure("memory", "out of memory"), "memory", "out of memory"),
        (TrialFailure("storage", "disk full"), "storage", "disk full"),
        (ValueError("boom\nand more"), "crash", "ValueError: boom"),
        (ValueError(), "crash", "ValueError: no message"),
        (KeyError("x"), "crash", "KeyError: 'x'"),
        (
            ActorDiedError(),
            "crash",
            "its worker died (The actor died unexpectedly before finishing this task.)",
        ),
        (
            RayActorError(error_msg="died.\n Worker exit detail: Worker exits by signal 9. More.\n"),
            "crash",
            "its worker died (Worker exits by signal 9)",
        ),
        (OutOfMemoryError("killed\nlong"), "memory", "its worker ran out of memory (killed)"),
        (RayTaskError("f", "trace", TrialFailure("input", "wrong")), "input", "wrong"),
        (
            RayTaskError("f", "trace", TrialFailure("memory", "short")).as_instanceof_cause(),
            "memory",
            "short",
        ),
        (
            RayTaskError("f", "trace", ZeroDivisionError("division by zero")).as_instanceof_cause(),
            "crash",
            "ZeroDivisionError: division by zero",
        ),
    ],
)
def test_what_is_said_of_an_error(error: Exception, kind: str, cause: str) -> None:
    trial = _trial(alone=True)
    trial.handle_error(error)
    assert (trial.kind, trial.cause) == (kind, cause)
    assert trial.num_failures == 1


def test_an_endless_message_is_cut() -> None:
    trial = _trial()
    trial.handle_error(ValueError("x" * 100_000))
    assert trial.cause == "ValueError: " + "x" * 300


@pytest.mark.parametrize("kind", ["input", "storage"])
def test_what_no_retry_mends_is_not_tried_again(kind: str) -> None:
    assert not _fails(_trial(5, alone=True), TrialFailure(kind, "x"))


@pytest.mark.parametrize("error", [ValueError("x"), ActorDiedError(), RuntimeError()])
@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_a_crash_is_tried_again_so_many_times_in_a_row(error: Exception, most: int) -> None:
    trial = _trial(most)
    assert [_fails(trial, error) for _ in range(most + 2)] == [True] * most + [False] * 2
    assert trial.num_failures == most + 2
    assert trial.cause.endswith(f"({most + 2} times in a row)")


def test_the_first_crash_is_not_counted_aloud() -> None:
    trial = _trial()
    trial.handle_error(ValueError("x"))
    assert trial.cause == "ValueError: x"
    trial.handle_error(ValueError("y"))
    assert trial.cause == "ValueError: y (2 times in a row)"


def test_a_report_in_between_begins_the_count_anew() -> None:
    trial = _trial(1)
    for iteration in (10, 20, 30, 40):
        trial.note_progress(iteration)
        assert _fails(trial, ValueError("x"))
        assert trial.cause == "ValueError: x"
    assert not _fails(trial, ValueError("x"))


def test_a_report_that_was_made_before_is_no_progress() -> None:
    trial = _trial(1)
    trial.note_progress(20)
    assert _fails(trial, ValueError("x"))
    for iteration in (10, 20):
        trial.note_progress(iteration)
    assert not _fails(trial, ValueError("x"))
    assert trial.cause == "ValueError: x (2 times in a row)"


def test_short_memory_is_tried_again_once_and_alone() -> None:
    trial = _trial(5, alone=True)
    assert _fails(trial, TrialFailure("memory", "out of memory"))
    assert trial.placement_group_factory == trial.alone == tune.PlacementGroupFactory([{"CPU": 8}])
    assert trial.cause == "out of memory"
    assert not _fails(trial, TrialFailure("memory", "out of memory"))
    assert trial.cause == "out of memory, also when it was alone on its device"


def test_short_memory_of_a_trial_in_a_lane_is_tried_again_as_a_crash() -> None:
    """It cannot be alone: its device belongs to the process that trains."""
    trial = _trial(1)
    before = trial.placement_group_factory
    assert _fails(trial, TrialFailure("memory", "out of memory"))
    assert trial.placement_group_factory == before
    assert not _fails(trial, TrialFailure("memory", "out of memory"))
    assert trial.cause == "out of memory (2 times in a row)"


def test_a_trial_that_was_alone_once_may_crash_and_go_on_but_not_run_short_again() -> None:
    trial = _trial(2, alone=True)
    assert _fails(trial, OutOfMemoryError("killed"))
    trial.note_progress(10)
    assert _fails(trial, ValueError("x"))
    trial.note_progress(20)
    assert not _fails(trial, OutOfMemoryError("killed"))


def test_a_crash_does_not_ask_for_the_whole_device() -> None:
    trial = _trial(2, alone=True)
    before = trial.placement_group_factory
    assert _fails(trial, ValueError("x"))
    assert trial.placement_group_factory == before


def test_a_trial_that_hung_is_told_so_once() -> None:
    trial = _trial(2)
    trial.hung_s = 90.0
    assert _fails(trial, ActorDiedError())
    assert trial.cause == "hung: no report for 90 s, so it was killed"
    assert _fails(trial, ValueError("x"))
    assert trial.cause == "ValueError: x (2 times in a row)"


def test_of_its_reports_a_trial_keeps_the_last_alone() -> None:
    trial = _trial()
    for iteration in (10, 20):
        trial.update_last_result({"iteration": iteration, "training_iteration": iteration})
    assert trial.last_result["iteration"] == 20
    assert trial.metric_analysis == {}
    trial.restore_run_metadata(trial.get_json_state()[1])
    assert trial.last_result["iteration"] == 20


def _nothing(config: dict[str, Any]) -> None:
    pass


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """What Ray Tune says that the trials are of."""
    return Experiment("run", run=_nothing, storage_path=str(tmp_path_factory.mktemp("storage")))


class _Sweep:
    """A study and the search over it, as a start or a resumption of a sweep makes them."""

    def __init__(self, folder: Path, experiment: Experiment, workers: int, **changes: Any) -> None:
        folder.mkdir(exist_ok=True)
        is_new = not list(folder.iterdir())
        self.folder = folder
        self.study = SweepStudy(folder, SweepSpec.parse({**SPEC, **changes}) if is_new else None)
        if not is_new:
            self.study.settle()
        self.search = StudySearch(self.study, workers)
        self.search.add_configurations([experiment])

    def next(self) -> TuneTrial:
        trial = self.search.next_trial()
        assert isinstance(trial, TuneTrial)
        return trial

    def result(self, number: int, *scores: float, state: str = "running", cause: str = "") -> Any:
        """Report as a trial does: into its own file, then to Tune; return the last report."""
        folder = trial_folder(self.folder, number)
        folder.mkdir(exist_ok=True)
        line: dict[str, Any] = {}
        for i, score in enumerate(scores, start=1):
            is_last = i == len(scores)
            line = {"iteration": 30 * i, "evaluation": i, "fid_proxy": score}
            line |= {METRIC: min(scores[:i]), "train_time_s": 0.5 * i, "samples_per_s": 10.0}
            line |= {"state": state if is_last else "running", "cause": cause if is_last else ""}
            append_line(folder / "result.json", line)
            self.search.on_trial_result(f"{number:05d}", line)
        return line

    def state(self, number: int) -> tuple[str, str]:
        trial = self.study.trials[number]
        return trial.state, trial.cause


@pytest.fixture
def start(
    tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., _Sweep]:
    """Start, or resume, the sweep of this test."""
    # All that would need a running Ray: where an ended trial keeps its files until they are stored.
    monkeypatch.setattr(TuneTrial, "init_local_path", lambda trial: None)

    def start(workers: int = 2, **changes: Any) -> _Sweep:
        return _Sweep(tmp_path / "run", experiment, workers, **changes)

    return start


def test_the_default_comes_first_and_the_draws_are_the_samplers(start: Callable[..., _Sweep]) -> None:
    sweep = start(workers=6)
    drawn = [sweep.next() for _ in range(6)]
    assert drawn[0].config == DEFAULT
    for number, trial in enumerate(drawn):
        assert trial.trial_id == f"{number:05d}"
        assert str(trial) == trial.custom_dirname == f"trial_{number:05d}"
        assert trial.max_in_a_row == 3
        assert trial.alone.bundles == WHOLE_GPU
        before = sweep.study.frozen_trials[:number]
        if number:
            assert trial.config == draw(sweep.study.spec, number, before)
    assert [trial.values for trial in sweep.study.trials] == [trial.config for trial in drawn]
    assert sweep.search.is_finished()
    assert sweep.search.next_trial() is None


def test_a_grid_is_tried_whole_the_default_first(start: Callable[..., _Sweep]) -> None:
    space = {"gen_lr": {"grid": [1e-4, 1e-3]}, "disc_steps": {"grid": [1, 2]}}
    sweep = start(workers=9, space=space, search={"algorithm": "grid"})
    assert sweep.search.total_samples == 4
    assert [sweep.next().config for _ in range(4)] == [
        DEFAULT,
        {"gen_lr": 1e-4, "disc_steps": 1},
        {"gen_lr": 1e-4, "disc_steps": 2},
        {"gen_lr": 1e-3, "disc_steps": 2},
    ]
    assert sweep.search.next_trial() is None


def test_there_are_no_more_trials_at_a_time_than_workers(start: Callable[..., _Sweep]) -> None:
    sweep = start(workers=2)
    for number in (0, 1):
        assert sweep.next().trial_id == f"{number:05d}"
    assert sweep.search.next_trial() is None
    assert not sweep.search.is_finished()
    assert [trial.trial_id for trial in sweep.search.live_trials()] == ["00000", "00001"]
    sweep.search.on_trial_complete("00001", sweep.result(1, 5.0, state="completed"))
    assert sweep.next().trial_id == "00002"
    assert sweep.search.next_trial() is None


@pytest.mark.parametrize(
    ("state", "cause", "told", "shown"),
    [
        ("completed", "", TrialState.COMPLETE, ""),
        ("running", "", TrialState.PRUNED, "scheduler"),
        ("stopped", "its time limit of 9 s is over", TrialState.COMPLETE, None),
        ("diverged", "gen_loss is nan", TrialState.FAIL, "at iteration 60: gen_loss is nan"),
        ("collapsed", "coverage 0", TrialState.FAIL, "at iteration 60: coverage 0"),
    ],
)
def test_the_study_learns_how_a_trial_ended(
    start: Callable[..., _Sweep], state: str, cause: str, told: TrialState, shown: str | None
) -> None:
    sweep = start()
    sweep.next().stopped_by_scheduler = state == "running"
    sweep.search.on_trial_complete("00000", sweep.result(0, 9.0, 5.0, state=state, cause=cause))
    expected = "stopped" if state == "running" else state
    assert sweep.state(0) == (expected, cause if shown is None else shown)
    frozen = sweep.study.frozen_trials[0]
    assert frozen.state == told
    assert frozen.intermediate_values == {1: 9.0, 2: 5.0}
    if told == TrialState.COMPLETE:
        assert frozen.values == [5.0]
    (listed,) = read_trials(sweep.folder)
    assert (listed.state.value, listed.cause) == sweep.state(0)
    assert sweep.search.live_trials() == []


def test_the_second_objective_is_told(start: Callable[..., _Sweep]) -> None:
    sweep = start(search={**SPEC["search"], "objectives": ["fid_proxy", "train_time_s"]})
    sweep.next()
    sweep.search.on_trial_complete("00000", sweep.result(0, 9.0, 5.0, 7.0, state="completed"))
    assert sweep.study.frozen_trials[0].values == [5.0, 1.5]


def test_a_last_report_that_tune_told_only_at_the_end_counts(start: Callable[..., _Sweep]) -> None:
    sweep = start()
    sweep.next()
    last = {**sweep.result(0, 9.0), "evaluation": 2, METRIC: 4.0, "state": "completed"}
    sweep.search.on_trial_complete("00000", last)
    assert sweep.study.trials[0].reports == {1: 9.0, 2: 4.0}


def test_a_failed_trial_has_its_cause(start: Callable[..., _Sweep]) -> None:
    sweep = start()
    trial = sweep.next()
    _fails(trial, TrialFailure("input", "batch_size 9 is too large"))
    sweep.search.on_trial_complete("00000", error=True)
    assert sweep.state(0) == ("failed", "batch_size 9 is too large")
    assert sweep.study.frozen_trials[0].state == TrialState.FAIL


def test_a_full_disk_stops_the_sweep_and_the_trial_waits(start: Callable[..., _Sweep]) -> None:
    sweep = start()
    trial = sweep.next()
    _fails(trial, TrialFailure("storage", "x cannot be written (No space left on device)"))
    with pytest.raises(
        StorageError, match=r"x cannot be written \(No space left on device\)"
    ) as caught:
        sweep.search.on_trial_complete("00000", error=True)
    assert sweep.study.broken is caught.value
    assert sweep.state(0) == ("pending", "interrupted")


def test_a_trial_that_was_stopped_by_nobody_waits_with_its_last_report(
    start: Callable[..., _Sweep],
) -> None:
    sweep = start()
    sweep.next()
    last = {**sweep.result(0, 9.0), "evaluation": 2, METRIC: 4.0}
    sweep.search.on_trial_complete("00000", last)
    assert sweep.state(0) == ("pending", "interrupted")
    assert sweep.study.trials[0].reports == {1: 9.0, 2: 4.0}


@pytest.mark.parametrize("result", [None, {}, {"config": {}}])
def test_a_trial_that_was_cut_short_waits(start: Callable[..., _Sweep], result: Any) -> None:
    sweep = start()
    sweep.next()
    sweep.search.on_trial_complete("00000", result)
    assert sweep.state(0) == ("pending", "interrupted")


def test_once_it_is_over_no_trial_begins_and_those_that_run_wait(start: Callable[..., _Sweep]) -> None:
    sweep = start()
    sweep.next()
    sweep.next()
    sweep.search.is_over = True
    assert sweep.search.is_finished()
    assert sweep.search.next_trial() is None
    sweep.search.on_trial_complete("00000", sweep.result(0, 9.0, 8.0))
    assert sweep.state(0) == ("pending", "interrupted")
    assert sweep.study.trials[0].reports == {1: 9.0, 2: 8.0}
    sweep.search.on_trial_complete("00001", sweep.result(1, 7.0, state="completed"))
    assert sweep.state(1) == ("completed", "")


def test_what_is_live_waits_when_the_search_is_closed(start: Callable[..., _Sweep]) -> None:
    sweep = start()
    sweep.next()
    sweep.next()
    sweep.search.on_trial_complete("00000", sweep.result(0, 9.0, state="completed"))
    sweep.search.close()
    assert [trial.state for trial in sweep.study.trials] == ["completed", "pending"]
    assert sweep.search.live_trials() == []
    sweep.search.close()
    assert [trial.state for trial in sweep.study.trials] == ["completed", "pending"]


def test_of_other_trials_nothing_is_told(start: Callable[..., _Sweep]) -> None:
    sweep = start()
    sweep.next()
    sweep.search.on_trial_complete("00000", sweep.result(0, 9.0, state="completed"))
    before = sweep.study.trials
    result = {
        "iteration": 60,
        "evaluation": 2,
        METRIC: 1.0,
        "state": "diverged",
        "cause": "x",
    }
    sweep.search.on_trial_result("00000", result)
    sweep.search.on_trial_complete("00000", result)
    sweep.search.on_trial_complete("00000", error=True)
    assert sweep.study.trials == before


def test_reports_are_progress(start: Callable[..., _Sweep]) -> None:
    sweep = start()
    trial = sweep.next()
    for _ in range(3):
        assert _fails(trial, ValueError("x"))
    sweep.result(0, 9.0)
    assert _fails(trial, ValueError("x"))
    assert trial.cause == "ValueError: x"


def test_what_befell_a_running_trial_is_listed(start: Callable[..., _Sweep]) -> None:
    sweep = start()
    sweep.next()
    sweep.result(0, 9.0, cause="begun anew, since it was damaged")
    (listed,) = read_trials(sweep.folder)
    assert listed.cause == "unfinished at iteration 30; begun anew, since it was damaged"


def test_a_resumed_search_lists_what_has_ended_goes_on_and_then_draws_anew(
    start: Callable[..., _Sweep],
) -> None:
    sweep = start(workers=3)
    first = [sweep.next() for _ in range(3)]
    sweep.search.on_trial_complete("00001", sweep.result(1, 9.0, 5.0, state="completed"))
    sweep.result(2, 4.0)
    fourth = sweep.next()

    resumed = start(workers=2)
    states = [trial.state for trial in resumed.study.trials]
    assert states == ["pending", "completed", "pending", "pending"]
    assert not resumed.search.is_finished()
    ended = resumed.next()
    assert (ended.trial_id, ended.status) == ("00001", Trial.TERMINATED)
    assert ended.last_result[METRIC] == 5.0
    assert resumed.search.live_trials() == []
    pending = [resumed.next(), resumed.next()]
    assert [(trial.trial_id, trial.status) for trial in pending] == [
        ("00000", Trial.PENDING),
        ("00002", Trial.PENDING),
    ]
    assert [trial.config for trial in pending] == [first[0].config, first[2].config]
    states = [trial.state for trial in resumed.study.trials]
    assert states == ["running", "completed", "running", "pending"]
    assert resumed.search.next_trial() is None
    resumed.search.on_trial_complete("00002", resumed.result(2, 4.0, 3.0, state="completed"))
    assert (last := resumed.next()).trial_id == "00003"
    assert last.config == fourth.config
    resumed.search.on_trial_complete("00000", resumed.result(0, 4.0, state="completed"))
    assert resumed.next().trial_id == "00004"


def test_a_resumed_search_that_is_over_lists_what_has_ended_all_the_same(
    start: Callable[..., _Sweep],
) -> None:
    sweep = start()
    sweep.next()
    sweep.search.on_trial_complete("00000", sweep.result(0, 9.0, state="completed"))
    resumed = start()
    resumed.search.is_over = True
    assert not resumed.search.is_finished()
    assert resumed.next().status == Trial.TERMINATED
    assert resumed.search.is_finished()
    assert resumed.search.next_trial() is None


def test_a_resumed_search_draws_what_an_uninterrupted_one_draws(
    start: Callable[..., _Sweep], tmp_path: Path, experiment: Experiment
) -> None:
    search = {**SPEC["search"], "num_trials": 16}
    whole = _Sweep(tmp_path / "whole", experiment, 1, search=search)
    cut = start(workers=1, search=search)
    for number in range(16):
        if number % 3 == 2:
            cut = start(workers=1)
            for _ in range(number):
                assert cut.next().status == Trial.TERMINATED
        drawn = [whole.next().config, cut.next().config]
        assert drawn[0] == drawn[1]
        score = abs(math.log10(drawn[0]["gen_lr"]) + 3) + 1
        for sweep in (whole, cut):
            result = sweep.result(number, score, state="completed")
            sweep.search.on_trial_complete(f"{number:05d}", result)
    assert cut.study.trials == whole.study.trials


def test_trials_of_other_runs_are_learnt_from(start: Callable[..., _Sweep]) -> None:
    sweep = start()
    spec = sweep.study.spec
    distributions = {name: d.to_optuna() for name, d in spec.space.items()}
    warm = [
        create_trial(
            values=[float(i)],
            params={"gen_lr": 1e-4 * (i + 1), "disc_steps": 5},
            distributions=distributions,
        )
        for i in range(15)
    ]
    sweep.search = StudySearch(sweep.study, 3, iter(warm))
    sweep.search.add_configurations(Experiment("run", run=_nothing, storage_path=str(sweep.folder)))
    assert sweep.next().config == DEFAULT
    before = sweep.study.frozen_trials
    for number in (1, 2):
        before = list(sweep.study.frozen_trials)
        assert sweep.next().config == draw(spec, number, [*before, *warm]) != draw(spec, number, before)


def test_constraints_that_nothing_fulfils_stop_the_sweep_and_say_so(
    start: Callable[..., _Sweep],
) -> None:
    space = {"gen_lr": {"log_uniform": [1e-5, 1e-4]}}
    sweep = start(space=space, constraints=["gen_lr >= 1e-3"])
    assert sweep.next().config == {"gen_lr": 1e-3}
    with pytest.raises(ConfigError, match="none of 1,000 points") as caught:
        sweep.search.next_trial()
    assert sweep.search.problem is caught.value
    assert len(sweep.study.trials) == 1


def test_a_trial_whose_reports_are_not_to_be_seen_here_yet_still_ends(
    start: Callable[..., _Sweep],
) -> None:
    """A folder that machines share shows a file of another one with some delay."""
    sweep = start()
    sweep.next()
    last = sweep.result(0, 9.0, state="diverged", cause="gen_loss is nan")
    (trial_folder(sweep.folder, 0) / "result.json").unlink()
    sweep.search.on_trial_complete("00000", last)
    assert sweep.state(0) == ("diverged", "at iteration 30: gen_loss is nan")


def test_tune_pickles_nothing_of_the_search(start: Callable[..., _Sweep]) -> None:
    sweep = start()
    assert sweep.search.__getstate__() == {}
    assert json.dumps(sweep.search.metric) == f'"{METRIC}"'

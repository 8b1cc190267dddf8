import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tune_gan.errors import ConfigError, RunFolderError, StorageError
from tune_gan.files import append_line
from tune_gan.results.trials import TRIALS_FILE, trial_folder
from tune_gan.search.sampler import draw
from tune_gan.search.spec import SweepSpec
from tune_gan.search.study import SweepStudy
from tune_gan.search.warm_start import (
    load_warm_start,
    read_warm_start,
    require_instrument,
    save_warm_start,
)

GAN: dict[str, Any] = {"preset": "circle", "num_iterations": 300, "report_every": 30}
SPACE: dict[str, Any] = {
    "gen_lr": {"log_uniform": [1e-5, 1e-2]},
    "gen_hidden": {"choice": [[64], [128, 128]]},
}


def _spec(*runs: Path, **changes: Any) -> SweepSpec:
    search = {"algorithm": "tpe", "num_trials": 9, "warm_start": [str(run) for run in runs]}
    search |= changes.pop("search", {})
    return SweepSpec.parse({"name": "new", "gan": GAN, "space": SPACE, "search": search, **changes})


# State, cause, scores and searched fields.
TRIALS: list[tuple[str, str, list[float], dict[str, Any]]] = [
    ("completed", "", [9.0, 7.0, 8.0], {"gen_lr": 1e-3, "gen_hidden": "128,128"}),
    ("stopped", "scheduler", [50.0, 40.0], {"gen_lr": 1e-4, "gen_hidden": "64"}),
    ("stopped", "past its best", [20.0, 90.0], {"gen_lr": 2e-3, "gen_hidden": "64"}),
    ("diverged", "gen_loss is nan", [12.0], {"gen_lr": 3e-3, "gen_hidden": "64"}),
    ("failed", "its worker died", [13.0], {"gen_lr": 4e-3, "gen_hidden": "64"}),
    ("collapsed", "coverage 0", [14.0], {"gen_lr": 5e-3, "gen_hidden": "64"}),
    ("pending", "interrupted", [15.0], {"gen_lr": 6e-3, "gen_hidden": "64"}),
    ("completed", "", [], {"gen_lr": 7e-3, "gen_hidden": "64"}),
]
TOLD = [
    {"params": TRIALS[0][3], "scores": {1: 9.0, 2: 7.0, 3: 7.0}, "values": [7.0]},
    {"params": TRIALS[1][3], "scores": {1: 50.0, 2: 40.0}, "values": None},
    {"params": TRIALS[2][3], "scores": {1: 20.0, 2: 20.0}, "values": [20.0]},
]


def _run(
    folder: Path,
    trials: list[tuple[str, str, list[float], dict[str, Any]]] | None = None,
    times: bool = True,
    **changes: Any,
) -> Path:
    """Write a run folder as a sweep leaves it."""
    folder.mkdir()
    (folder / "sweep.yaml").write_text(_spec(**changes).to_yaml())
    for number, (state, cause, scores, config) in enumerate(TRIALS if trials is None else trials):
        line = {"trial": number, "state": state, "cause": cause, "config": config}
        append_line(folder / TRIALS_FILE, line)
        own_folder = trial_folder(folder, number)
        own_folder.mkdir()
        for i, score in enumerate(scores, start=1):
            report = {"iteration": 30 * i, "evaluation": i, "fid_proxy": score}
            if times:
                report |= {"train_time_s": 2.0 * i, "samples_per_s": 100.0 * i}
            append_line(own_folder / "result.json", report)
    return folder


def test_trials_that_came_to_a_score_are_told(tmp_path: Path) -> None:
    assert load_warm_start(_spec(_run(tmp_path / "old"))) == TOLD


def test_several_runs_are_told_in_their_order(tmp_path: Path) -> None:
    first, second = _run(tmp_path / "a", TRIALS[:1]), _run(tmp_path / "b", TRIALS[2:3])
    assert load_warm_start(_spec(second, first)) == [TOLD[2], TOLD[0]]
    assert load_warm_start(_spec()) == []


def test_what_is_kept_is_what_optuna_gets(tmp_path: Path) -> None:
    spec = _spec(_run(tmp_path / "old"))
    (tmp_path / "new").mkdir()
    save_warm_start(tmp_path / "new", load_warm_start(spec))
    trials = read_warm_start(tmp_path / "new", spec)
    assert [
        (trial.state, trial.values, trial.params, trial.intermediate_values) for trial in trials
    ] == [
        (TrialState.COMPLETE, [7.0], TRIALS[0][3], {1: 9.0, 2: 7.0, 3: 7.0}),
        (TrialState.PRUNED, None, TRIALS[1][3], {1: 50.0, 2: 40.0}),
        (TrialState.COMPLETE, [20.0], TRIALS[2][3], {1: 20.0, 2: 20.0}),
    ]


def test_a_draw_takes_what_was_kept(tmp_path: Path) -> None:
    many = [("completed", "", [float(i)], {"gen_lr": 1e-4 * (i + 1)}) for i in range(15)]
    spec = _spec(_run(tmp_path / "old", many, space={"gen_lr": SPACE["gen_lr"]}))
    save_warm_start(tmp_path, load_warm_start(spec))
    warm = read_warm_start(tmp_path, spec)
    assert len(warm) == 15
    assert draw(spec, 1, warm) == draw(spec, 1, read_warm_start(tmp_path, spec)) != draw(spec, 1, [])


def test_nothing_known_is_nothing_kept(tmp_path: Path) -> None:
    save_warm_start(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
    assert read_warm_start(tmp_path, _spec()) == []


def test_fields_that_are_searched_here_may_be_fixed_there(tmp_path: Path) -> None:
    old = _run(
        tmp_path / "old",
        [("completed", "", [5.0], {"gen_lr": 1e-3})],
        space={"gen_lr": SPACE["gen_lr"]},
    )
    assert load_warm_start(_spec(old)) == [
        {"params": {"gen_lr": 1e-3, "gen_hidden": "128,128"}, "scores": {1: 5.0}, "values": [5.0]}
    ]


def test_fields_that_are_fixed_here_may_be_searched_there(tmp_path: Path) -> None:
    told = load_warm_start(_spec(_run(tmp_path / "old"), space={"gen_lr": SPACE["gen_lr"]}))
    assert told == [{**TOLD[0], "params": {"gen_lr": 1e-3}}]


def test_only_active_fields_are_told(tmp_path: Path) -> None:
    conditional = {
        "beta2": {"uniform": [0.9, 0.999], "when": {"optimizer": "adam"}},
        "optimizer": {"choice": ["adam", "sgd"]},
    }
    trials: list[tuple[str, str, list[float], dict[str, Any]]] = [
        ("completed", "", [5.0], {"optimizer": "adam", "beta2": 0.95}),
        ("completed", "", [6.0], {"optimizer": "sgd"}),
    ]
    told = load_warm_start(_spec(_run(tmp_path / "old", trials, space=conditional), space=conditional))
    assert [known["params"] for known in told] == [trials[0][3], trials[1][3]]
    save_warm_start(tmp_path, told)
    assert [trial.params for trial in read_warm_start(tmp_path, _spec(space=conditional))] == [
        trials[0][3],
        trials[1][3],
    ]


@pytest.mark.parametrize(
    "changes", [{"seed": 5}, {"device": "cpu"}, {"data_root": "/elsewhere"}, {"num_threads": 1}]
)
def test_what_does_not_change_a_score_may_differ(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert load_warm_start(_spec(_run(tmp_path / "old", gan={**GAN, **changes}))) == TOLD


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"gan": {**GAN, "num_iterations": 600}}, "num_iterations is 600, here 300"),
        ({"gan": {**GAN, "loss": "hinge"}}, "loss is hinge, here non_saturating"),
        ({"gan": {**GAN, "dataset": "digits"}}, "dataset is digits, here circle"),
    ],
)
def test_a_run_that_does_not_compare_is_refused(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    old = _run(tmp_path / "old", **changes)
    with pytest.raises(ConfigError) as caught:
        load_warm_start(_spec(old))
    assert str(caught.value) == f"search.warm_start: no trial of {old} fits this sweep: {problem}"


def test_a_run_outside_of_the_space_is_refused(tmp_path: Path) -> None:
    old = _run(tmp_path / "old", TRIALS[:1])
    with pytest.raises(ConfigError) as caught:
        load_warm_start(_spec(old, space={"gen_lr": {"uniform": [0.1, 0.2]}}))
    assert str(caught.value) == (
        f"search.warm_start: no trial of {old} fits this sweep: gen_lr 0.001 is outside of the space"
    )


@pytest.mark.parametrize("trials", [[], TRIALS[3:]])
def test_a_run_of_which_nothing_has_ended_is_refused(
    tmp_path: Path, trials: list[tuple[str, str, list[float], dict[str, Any]]]
) -> None:
    old = _run(tmp_path / "old", trials)
    with pytest.raises(ConfigError, match=f"no trial of {old} fits this sweep: none has ended$"):
        load_warm_start(_spec(old))


def test_one_run_that_does_not_fit_refuses_all(tmp_path: Path) -> None:
    good = _run(tmp_path / "good")
    bad = _run(tmp_path / "bad", gan={**GAN, "loss": "hinge"})
    with pytest.raises(ConfigError, match=f"no trial of {bad} fits"):
        load_warm_start(_spec(good, bad))


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError) as caught:
        load_warm_start(_spec(tmp_path / "none"))
    assert str(caught.value) == f"{tmp_path / 'none'} is no run folder: it is not there"


def test_the_own_study_is_one_to_learn_from(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    _run(folder, [])
    study = SweepStudy(folder, _spec())
    study.add({"gen_lr": 1e-3, "gen_hidden": "64"})
    trial_folder(folder, 0).mkdir()
    append_line(
        trial_folder(folder, 0) / "result.json", {"iteration": 30, "evaluation": 1, "fid_proxy": 5.0}
    )
    study.end(0, "completed", "", [5.0])
    assert load_warm_start(_spec(folder)) == [
        {"params": {"gen_lr": 1e-3, "gen_hidden": "64"}, "scores": {1: 5.0}, "values": [5.0]}
    ]


@pytest.mark.parametrize(("second", "value"), [("train_time_s", 6.0), ("samples_per_s", 200.0)])
def test_the_second_objective_is_told(tmp_path: Path, second: str, value: float) -> None:
    objectives = {"objectives": ["fid_proxy", second]}
    told = load_warm_start(_spec(_run(tmp_path / "old", TRIALS[:1]), search=objectives))
    assert told[0]["values"] == [7.0, value]


@pytest.mark.parametrize("second", ["train_time_s", "samples_per_s"])
def test_a_run_that_kept_no_times_is_not_taken_for_the_fastest(tmp_path: Path, second: str) -> None:
    """As in runs of version 0.1.0: no seconds are the best there are, if they are taken for a value."""
    objectives = {"objectives": ["fid_proxy", second]}
    spec = _spec(_run(tmp_path / "old", TRIALS[:1], times=False), search=objectives)
    try:
        told = load_warm_start(spec)
    except ConfigError:
        return
    assert [known["values"] for known in told] != [[7.0, 0.0]] or second == "samples_per_s"


_WHOLE = {"params": {"gen_lr": 1e-3}, "scores": {"1": 5.0}, "values": [5.0]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[",
        b"\xff\xfe",
        b"[1]",
        b"5",
        b"[{}]",
        json.dumps([{**_WHOLE, "params": {"lr": 1.0}}]).encode(),
        json.dumps([{**_WHOLE, "params": {"gen_lr": 1.0}}]).encode(),
        json.dumps([{**_WHOLE, "params": ["gen_lr"]}]).encode(),
        json.dumps([{**_WHOLE, "params": None}]).encode(),
        json.dumps([{**_WHOLE, "scores": [5.0]}]).encode(),
        json.dumps([{**_WHOLE, "scores": {"one": 5.0}}]).encode(),
        json.dumps([{**_WHOLE, "values": "five"}]).encode(),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "warm_start.json").write_bytes(content)
    with pytest.raises(RunFolderError) as caught:
        read_warm_start(tmp_path, _spec())
    assert str(caught.value).startswith(f"{tmp_path / 'warm_start.json'} is damaged (")
    assert str(caught.value).endswith("); remove it to go on without")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"warm_start\.json cannot be written"):
        save_warm_start(tmp_path / "none", [_WHOLE])


def test_scores_of_another_instrument_are_not_learnt_from(tmp_path: Path) -> None:
    old = _run(tmp_path / "old")
    known = load_warm_start(_spec(old))
    # Version 0.1.0 did not say.
    require_instrument(known, "circle-fourier-v1, N=2000")
    path = trial_folder(old, 0) / "result.json"
    reports = [json.loads(line) for line in path.read_text().splitlines()]
    named = [{**report, "instrument": "circle-fourier-v1, N=2000"} for report in reports]
    path.write_text("".join(json.dumps(report) + "\n" for report in named))
    known = load_warm_start(_spec(old))
    require_instrument(known, "circle-fourier-v1, N=2000")
    with pytest.raises(ConfigError, match=r"scores of circle-fourier-v1, N=2000 do not compare"):
        require_instrument(known, "circle-fourier-v2, N=2000")

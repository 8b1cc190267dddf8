"""Reading of a run folder of version 0.1.0, which held no list of trials but Ray Tune's own.

`run_of_0_1_0` was written by that version on two cores: a grid of eight ring GANs, one at a
time, ASHA stopping them. While it ran, the worker of trial 3 was killed, and during trial 6 the sweep.
The checkpoints, Tune's pickles and figures of theirs are left out; names of the machine are replaced.
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tune_gan import load_results
from tune_gan.config import GanConfig
from tune_gan.errors import InputError, RunFolderError
from tune_gan.results.ranking import gain_over_default, rank
from tune_gan.results.show import best_yaml
from tune_gan.results.trials import read_trials
from tune_gan.settings import parse_yaml

_RUN = Path(__file__).parent / "run_of_0_1_0"
_STATE = "experiment_state-2026-11-21_10-18-59.json"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(_RUN, tmp_path / "run"))


def test_the_rows_as_they_were_written(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = load_results(run)
    best, values = ["best_fid_proxy", "best_iteration"], ["optimizer", "gen_lr", "disc_lr"]
    assert [tuple(row) for row in table[["state", *best, *values]].fillna(0).to_numpy()] == [
        ("completed", 2.114343882771037, 600, "adam", 0.001, 0.001),
        ("stopped", 115.48887506853951, 200, "adam", 0.001, 1.0),
        ("stopped", 91.21402939511137, 200, "adam", 0.01, 0.001),
        ("failed", 0, 0, "adam", 0.01, 1.0),
        ("stopped", 107.99149268066404, 200, "sgd", 0.001, 0.001),
        ("diverged", 1e6, 200, "sgd", 0.001, 1.0),
        ("running", 97.54688375327174, 200, "sgd", 0.01, 0.001),
    ]
    assert list(table["trial"]) == list(range(7))
    assert list(table["iteration"].fillna(0)) == [800, 200, 200, 0, 200, 200, 200]
    assert table["fid_proxy"][0] == 4.009195080142801
    assert pd.isna(table["fid_proxy"][3])
    assert list(table["cause"])[:3] == ["", "scheduler", "scheduler"]
    assert table["cause"][3].startswith("The actor is dead because its worker process has died. Worker")
    assert table["cause"][5].startswith("at iteration 200: gen_loss is nan, disc_loss is nan, ")
    assert table["cause"][6] == "unfinished at iteration 200"
    assert caplog.messages == []


def test_its_ranking(run: Path) -> None:
    ranked = rank(load_results(run))
    assert list(ranked["trial"]) == [0, 2, 4, 1, 6, 5, 3]
    assert list(ranked["rank"].fillna(0)) == [1, 2, 3, 4, 0, 0, 0]
    gain = gain_over_default(ranked)
    assert gain is not None
    assert gain.ratio == 1


def test_its_best_configuration(run: Path) -> None:
    text = best_yaml(run)
    assert text.splitlines()[0] == (
        "# trial 0 of 'run', chosen by its best fid_proxy, 2.11434 at iteration 600, of one seed"
    )
    config = GanConfig.parse(parse_yaml(text))
    assert (config.optimizer, config.gen_lr, config.disc_lr) == ("adam", 0.001, 0.001)
    assert (config.loss, config.gen_hidden, config.num_iterations) == ("least_squares", (64, 64), 800)


def test_the_values_of_another_trial_go_over_the_sweeps_own(run: Path) -> None:
    (run / "trial_00000" / "result.json").unlink()
    text = best_yaml(run)
    assert text.startswith("# trial 2 of 'run', ")
    assert GanConfig.parse(parse_yaml(text)).gen_lr == 0.01


def test_every_report_is_read(run: Path) -> None:
    (first, *_) = read_trials(run)
    assert [report["iteration"] for report in first.reports] == [200, 400, 600, 800]


def test_a_trial_without_an_error_file_has_an_unknown_cause(run: Path) -> None:
    (run / "trial_00003" / "error.txt").write_text(" \n\n")
    assert load_results(run)["cause"][3] == "unknown"
    (run / "trial_00003" / "error.txt").unlink()
    state = json.loads((run / _STATE).read_text())
    trials = [json.loads(trial) for trial, _ in state["trial_data"]]
    trials[3]["status"] = "ERROR"
    trials[6]["status"] = "PENDING"
    text = json.dumps({"trial_data": [[json.dumps(trial), "{}"] for trial in reversed(trials)]})
    (run / _STATE).write_text(text)
    (run / "trial_00006" / "result.json").unlink()
    table = load_results(run)
    assert list(table["state"])[3::3] == ["failed", "pending"]
    assert list(table["cause"])[3::3] == ["unknown: no error.txt was written", "not started"]


def test_a_trial_whose_process_was_killed_has_failed(run: Path) -> None:
    (run / "trial_00006" / "error.txt").write_text("Traceback\nActorDiedError: killed\n\n")
    row = load_results(run).iloc[6]
    assert (row["state"], row["cause"]) == ("failed", "ActorDiedError: killed")


def test_the_latest_of_tunes_lists_counts(run: Path) -> None:
    (run / "experiment_state-2026-11-20_10-18-59.json").write_text("{")
    assert len(load_results(run)) == 7
    (run / "experiment_state-2026-11-22_10-18-59.json").write_text('{"trial_data": []}')
    assert load_results(run).empty


def test_a_run_that_has_only_begun_is_empty(run: Path) -> None:
    (run / _STATE).unlink()
    with pytest.raises(RunFolderError) as caught:
        load_results(run)
    assert str(caught.value) == f"{run / 'trials.jsonl'} is missing; the trials are unknown"
    for folder in run.glob("trial_*"):
        shutil.rmtree(folder)
    table = load_results(run)
    assert table.empty
    assert list(table.columns)[-3:] == ["optimizer", "gen_lr", "disc_lr"]


@pytest.mark.parametrize("kept", [0, 1, 100, 20_000, 36_000])
def test_a_list_that_was_cut_is_one_clear_error(run: Path, kept: int) -> None:
    (run / _STATE).write_text((run / _STATE).read_text()[:kept])
    with pytest.raises(RunFolderError) as caught:
        load_results(run)
    assert str(caught.value).startswith(f"{run / _STATE} is damaged (")
    assert str(caught.value).endswith("); the trials are unknown")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "trial",
    [
        {},
        {"experiment_tag": "x", "status": "ERROR", "config": {}},
        {"experiment_tag": 7, "status": "ERROR", "config": {}},
        {"experiment_tag": "1_", "config": {}},
        {"experiment_tag": "1_", "status": "TERMINATED", "config": 3},
        {"experiment_tag": "1_", "status": "TERMINATED", "config": None},
        [],
        None,
    ],
)
def test_a_foreign_trial_in_the_list_is_one_clear_error(run: Path, trial: object) -> None:
    (run / _STATE).write_text(json.dumps({"trial_data": [[json.dumps(trial), "{}"]]}))
    with pytest.raises(RunFolderError, match=rf"{_STATE} is damaged \(.*\); the trials are unknown"):
        load_results(run)


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", '{"trial_data": 3}', '{"trial_data": [3]}', "[" * 9999]
)
def test_a_foreign_list_is_one_clear_error(run: Path, text: str) -> None:
    (run / _STATE).write_text(text)
    with pytest.raises(RunFolderError, match=rf"{_STATE} is damaged \(.*\); the trials are unknown"):
        load_results(run)


@pytest.mark.parametrize("gan", ["3", "{}", "{num_iterations: x}", "{num_iterations: 5, no: 1}"])
def test_a_foreign_sweep_file_is_one_clear_error(run: Path, gan: str) -> None:
    (run / "sweep.yaml").write_text(f"gan: {gan}\nspace: {{}}\n")
    with pytest.raises(InputError) as caught:
        load_results(run)
    assert "sweep.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_its_sweep_file_it_is_no_run_folder(run: Path) -> None:
    (run / "sweep.yaml").unlink()
    with pytest.raises(RunFolderError) as caught:
        load_results(run)
    assert str(caught.value) == f"{run} is no run folder: it holds no sweep.yaml"


def test_damaged_reports_are_left_out_with_a_warning(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = run / "trial_00000" / "result.json"
    path.write_text(path.read_text()[:-300])
    row = load_results(run).iloc[0]
    assert (row["state"], row["iteration"]) == ("stopped", 600)
    assert caplog.messages == [f"{path}: 1 damaged lines left out"]

"""Reading and ranking of a run folder as Ray Tune writes it, every state in it."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from tune_gan import load_results
from tune_gan.config import GanConfig
from tune_gan.errors import InputError, RunFolderError, SweepFailedError
from tune_gan.results.load import read_sweep
from tune_gan.results.ranking import best_trial, gain_over_default, rank
from tune_gan.results.show import best_yaml, gain_line, ranking_records, ranking_table
from tune_gan.settings import parse_yaml

SWEEP = """
name: test
gan: {dataset: digits, num_iterations: 300, report_every: 100, gen_hidden: [32]}
space:
  gen_lr: {log_uniform: [1e-5, 1e-2]}
  disc_hidden: {choice: [[64], [32, 16]]}
"""
# Status in Tune's list, scores of the reports, what the last report says besides.
TRIALS: list[tuple[str, list[float], dict[str, Any]]] = [
    ("TERMINATED", [90.0, 50.0, 60.0], {}),
    ("TERMINATED", [80.0], {}),
    ("TERMINATED", [70.0, 5.0, 9.0], {}),
    ("ERROR", [20.0], {}),
    ("TERMINATED", [4.0, 1e6], {"state": "diverged", "cause": "gen_loss is nan"}),
    ("RUNNING", [3.0], {}),
    ("PENDING", [], {}),
]


def write_run(folder: Path, trials: list[tuple[str, list[float], dict[str, Any]]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "sweep.yaml").write_text(SWEEP)
    listed = []
    for number, (status, scores, extra) in enumerate(trials):
        trial_folder = folder / f"trial_{number:05d}"
        trial_folder.mkdir()
        lines = [
            {"iteration": 100 * (i + 1), "fid_proxy": score, "state": "running"}
            for i, score in enumerate(scores)
        ]
        if lines:
            lines[-1] |= extra
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (trial_folder / "result.json").write_text(text)
        if status == "ERROR":
            (trial_folder / "error.txt").write_text("Traceback:\n  line\nValueError: <b>boom</b>\n")
        config = {"gen_lr": 10.0 ** -(number % 4 + 2), "disc_hidden": "32,16"}
        tag = f"{number + 1}_gen_lr=..."
        state = {"experiment_tag": tag, "status": status, "config": config}
        listed.append([json.dumps(state), "{}"])
    listed.reverse()
    (folder / "experiment_state-2026-01-02.json").write_text(json.dumps({"trial_data": listed}))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", TRIALS)


def test_one_row_a_trial_in_their_order(run: Path) -> None:
    table = load_results(str(run))
    assert list(table["trial"]) == list(range(7))
    assert list(table["state"]) == [
        "completed",
        "stopped",
        "completed",
        "failed",
        "diverged",
        "running",
        "pending",
    ]
    assert list(table["cause"]) == [
        "",
        "scheduler",
        "",
        "ValueError: <b>boom</b>",
        "at iteration 200: gen_loss is nan",
        "unfinished at iteration 100",
        "not started",
    ]
    third = table.iloc[2]
    assert (third["best_fid_proxy"], third["best_iteration"]) == (5.0, 200)
    assert (third["fid_proxy"], third["iteration"]) == (9.0, 300)
    assert third["gen_lr"] == 1e-4
    assert pd.isna(table.iloc[6]["best_fid_proxy"])


def test_ranked_by_the_best_score_with_the_rest_below(run: Path) -> None:
    ranked = rank(load_results(run))
    assert list(ranked["trial"]) == [2, 0, 1, 5, 6, 4, 3]
    assert list(ranked["rank"].fillna(0)) == [1, 2, 3, 0, 0, 0, 0]


def test_gain_over_the_default(run: Path) -> None:
    ranked = rank(load_results(run))
    gain = gain_over_default(ranked)
    assert gain is not None
    assert (gain.default, gain.best, gain.ratio) == (50.0, 5.0, 10.0)
    assert "trial 2 scores 5 where the default configuration (trial 0) scores 50" in gain_line(ranked)


def test_gain_lines_without_a_gain(tmp_path: Path) -> None:
    default_best = write_run(tmp_path / "a", TRIALS[:2])
    assert gain_line(rank(load_results(default_best))) == (
        "the default configuration (trial 0) is the best"
    )
    default_failed = write_run(tmp_path / "b", [TRIALS[3], TRIALS[1]])
    assert "has no score to compare with" in gain_line(rank(load_results(default_failed)))


def test_best_is_a_configuration_that_train_takes(run: Path) -> None:
    text = best_yaml(run)
    assert text.startswith("# trial 2 of 'run': best fid_proxy 5 at iteration 200\n")
    config = GanConfig.parse(parse_yaml(text))
    assert config.gen_lr == 1e-4
    assert config.disc_hidden == (32, 16)
    assert config.gen_hidden == (32,)
    assert config.num_iterations == 300


def test_no_best_where_none_is_ranked(tmp_path: Path) -> None:
    ranked = rank(load_results(write_run(tmp_path / "run", TRIALS[3:5])))
    with pytest.raises(SweepFailedError) as caught:
        best_trial(ranked)
    assert "1 diverged" in str(caught.value)
    assert "1 failed" in str(caught.value)
    assert "gen_loss is nan" in str(caught.value)


def test_records_are_json(run: Path) -> None:
    records = json.loads(json.dumps(ranking_records(rank(load_results(run)))))
    assert records[0] == {
        "rank": 1,
        "trial": 2,
        "state": "completed",
        "cause": "",
        "best_fid_proxy": 5.0,
        "best_iteration": 200,
        "fid_proxy": 9.0,
        "iteration": 300,
        "config": {"gen_lr": 1e-4, "disc_hidden": "32,16"},
    }
    assert records[4]["best_fid_proxy"] is None
    assert records[-1]["rank"] is None


def test_table_shows_every_trial_and_its_cause(run: Path) -> None:
    text = io.StringIO()
    Console(file=text, width=200).print(ranking_table(rank(load_results(run))))
    lines = text.getvalue().splitlines()
    assert len(lines) == 9
    assert lines[2].split()[:4] == ["1", "2", "completed", "5"]
    assert "ValueError: <b>boom</b>" in lines[8]


def test_a_narrow_table_cuts_no_number(run: Path) -> None:
    text = io.StringIO()
    Console(file=text, width=70).print(ranking_table(rank(load_results(run))))
    assert "…" not in text.getvalue()


def test_a_line_that_is_being_written_is_left_out(run: Path) -> None:
    with (run / "trial_00005" / "result.json").open("a") as file:
        file.write('{"iteration": 200, "fid_pro')
    assert load_results(run).iloc[5]["iteration"] == 100


def test_a_run_that_has_only_begun_is_empty(run: Path) -> None:
    next(run.glob("experiment_state*")).unlink()
    table = load_results(run)
    assert table.empty
    assert "gen_lr" in table.columns
    with pytest.raises(SweepFailedError, match="none has started"):
        best_trial(rank(table))


def test_what_is_no_run_folder(tmp_path: Path, run: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds no sweep\.yaml"):
        load_results(tmp_path)
    state = next(run.glob("experiment_state*"))
    state.write_text(state.read_text()[:100])
    with pytest.raises(RunFolderError, match=r"experiment_state.*is damaged"):
        load_results(run)
    (run / "sweep.yaml").write_text("name: x\n")
    with pytest.raises(RunFolderError, match="is damaged"):
        read_sweep(run)


def test_a_trial_whose_process_was_killed_has_failed(run: Path) -> None:
    (run / "trial_00005" / "error.txt").write_text("ActorDiedError: killed\n")
    row = load_results(run).iloc[5]
    assert (row["state"], row["cause"]) == ("failed", "ActorDiedError: killed")


@pytest.mark.parametrize("score", ["null", "NaN", '"low"', "Infinity", "[1]"])
def test_reports_without_a_score_are_left_out(run: Path, score: str) -> None:
    with (run / "trial_00000" / "result.json").open("a") as file:
        file.write(f'{{"iteration": 400, "fid_proxy": {score}}}\n')
    assert load_results(run).iloc[0]["iteration"] == 300


@pytest.mark.parametrize("gan", ["3", "{}", "{num_iterations: x}", "{num_iterations: 5, no: 1}"])
def test_a_foreign_sweep_file_is_one_clear_error(run: Path, gan: str) -> None:
    (run / "sweep.yaml").write_text(f"gan: {gan}\nspace: {{}}\n")
    with pytest.raises(InputError) as caught:
        load_results(run)
    assert "\n" not in str(caught.value)


def test_a_foreign_trial_list_is_one_clear_error(run: Path) -> None:
    trials: list[object] = [{}, {"experiment_tag": "x", "status": "ERROR", "config": {}}, [], None]
    for trial in trials:
        text = json.dumps({"trial_data": [[json.dumps(trial), "{}"]]})
        (run / "experiment_state-2026-01-02.json").write_text(text)
        with pytest.raises(RunFolderError, match="is damaged"):
            load_results(run)


def test_a_folders_name_stays_in_the_comment(run: Path, tmp_path: Path) -> None:
    renamed = run.rename(tmp_path / "x\ngen_lr: 0.5")
    assert GanConfig.parse(parse_yaml(best_yaml(renamed))).gen_lr == 1e-4


def test_names_of_trials_are_not_taken_from_left_over_folders(run: Path) -> None:
    (run / "trial_00099").mkdir()
    assert 99 not in set(load_results(run)["trial"])

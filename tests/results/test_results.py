"""Reading and ranking of a run folder as a sweep writes it, every state in it."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from tune_gan import load_results
from tune_gan.config import GanConfig
from tune_gan.errors import IncomparableError, RunFolderError, SweepFailedError
from tune_gan.files import append_line
from tune_gan.results.floor import Floor
from tune_gan.results.ranking import best_trial, gain_over_default, rank
from tune_gan.results.rules import Rule, rank_runs
from tune_gan.results.show import (
    best_yaml,
    gain_line,
    print_ranking,
    ranking_records,
    ranking_table,
    status_record,
)
from tune_gan.results.trials import objective_of, read_sweep
from tune_gan.settings import parse_yaml

SWEEP = """
name: test
gan: {dataset: digits, num_iterations: 300, report_every: 100, gen_hidden: [32]}
space:
  gen_lr: {log_uniform: [1e-5, 1e-2]}
  disc_hidden: {choice: [[64], [32, 16]]}
"""
Trial = tuple[str, list[float], str]
# State and cause in the list of trials, and between them the scores of the reports.
TRIALS: list[Trial] = [
    ("completed", [90.0, 50.0, 60.0], ""),
    ("stopped", [80.0], "scheduler"),
    ("completed", [70.0, 5.0, 9.0], ""),
    ("failed", [20.0], "ValueError: <b>boom</b>"),
    ("diverged", [4.0, 1e6], "at iteration 200: gen_loss is nan"),
    ("running", [3.0], ""),
    ("pending", [], "interrupted"),
]
COLLAPSED: Trial = ("collapsed", [10.0, 2.0], "at iteration 200: coverage 0.01 for 3 evaluations")


def write_run(folder: Path, trials: list[Trial], sweep: str = SWEEP) -> Path:
    """Write a run in which trial n takes n + 1 seconds for the 1,000 samples of each report."""
    folder.mkdir(exist_ok=True)
    (folder / "sweep.yaml").write_text(sweep)
    for number, (state, scores, _) in enumerate(trials):
        config = {"gen_lr": 10.0 ** -(number % 4 + 2), "disc_hidden": "32,16"}
        begun = {"trial": number, "state": "running", "cause": "", "config": config}
        append_line(folder / "trials.jsonl", begun)
        trial_folder = folder / f"trial_{number:05d}"
        if scores:
            trial_folder.mkdir()
        for i, score in enumerate(scores):
            report = {
                "iteration": 100 * (i + 1),
                "evaluation": i + 1,
                "fid_proxy": score,
                "best_fid_proxy": min(scores[: i + 1]),
                "coverage": 0.5,
                "train_time_s": (i + 1) * (number + 1.0),
                "samples_per_s": 1000 / (number + 1),
                "state": "running" if i + 1 < len(scores) else state,
                "cause": "",
            }
            append_line(trial_folder / "result.json", report)
    # By the order in which trials end, which is not that of their numbers.
    for number, (state, _, cause) in reversed(list(enumerate(trials))):
        if state != "running":
            append_line(folder / "trials.jsonl", {"trial": number, "state": state, "cause": cause})
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", [*TRIALS, COLLAPSED])


def test_one_row_a_trial_in_their_order(run: Path) -> None:
    table = load_results(str(run))
    assert list(table["trial"]) == list(range(8))
    assert list(table["state"]) == [
        "completed",
        "stopped",
        "completed",
        "failed",
        "diverged",
        "running",
        "pending",
        "collapsed",
    ]
    assert list(table["cause"]) == [
        "",
        "scheduler",
        "",
        "ValueError: <b>boom</b>",
        "at iteration 200: gen_loss is nan",
        "unfinished at iteration 100",
        "no report yet; interrupted",
        "at iteration 200: coverage 0.01 for 3 evaluations",
    ]
    third = table.iloc[2]
    assert (third["best_fid_proxy"], third["best_iteration"]) == (5.0, 200)
    assert (third["fid_proxy"], third["iteration"]) == (9.0, 300)
    assert third["gen_lr"] == 1e-4
    assert pd.isna(table.iloc[6]["best_fid_proxy"])
    assert pd.isna(table.iloc[6]["iteration"])


def test_ranked_by_the_best_score_with_the_rest_below(run: Path) -> None:
    ranked = rank(load_results(run))
    assert list(ranked["trial"]) == [2, 0, 1, 5, 6, 7, 4, 3]
    assert list(ranked["rank"].fillna(0)) == [1, 2, 3, 0, 0, 0, 0, 0]


def test_the_last_line_of_a_trial_wins_and_its_values_stay(run: Path) -> None:
    append_line(run / "trials.jsonl", {"trial": 1, "state": "completed", "cause": ""})
    row = load_results(run).iloc[1]
    assert (row["state"], row["cause"], row["gen_lr"]) == ("completed", "", 1e-3)


def test_what_befell_a_trial_that_goes_on_is_said(run: Path) -> None:
    append_line(run / "trials.jsonl", {"trial": 5, "state": "running", "cause": "tried again"})
    assert load_results(run).iloc[5]["cause"] == "unfinished at iteration 100; tried again"


def test_a_trial_that_was_stopped_for_another_reason_says_it(run: Path) -> None:
    cause = "its time limit of 5 s is over"
    append_line(run / "trials.jsonl", {"trial": 1, "state": "stopped", "cause": cause})
    ranked = rank(load_results(run))
    assert list(ranked["cause"])[2] == cause
    assert list(ranked["rank"].fillna(0))[2] == 3


def test_gain_over_the_default(run: Path) -> None:
    ranked = rank(load_results(run))
    gain = gain_over_default(ranked)
    assert gain is not None
    assert (gain.default, gain.best, gain.ratio) == (50.0, 5.0, 10.0)
    assert gain_line(ranked) == (
        "trial 2 scores 5 where the default configuration (trial 0) scores 50: 10.0 times lower, "
        "by one seed each, of those that have ended; trial 5, which has not ended, is ahead with 3"
    )


def test_gain_lines_without_a_gain(tmp_path: Path) -> None:
    default_best = write_run(tmp_path / "a", TRIALS[:2])
    assert gain_line(rank(load_results(default_best))) == (
        "the default configuration (trial 0) is the best"
    )
    default_failed = write_run(tmp_path / "b", [TRIALS[3], TRIALS[1]])
    assert gain_line(rank(load_results(default_failed))) == (
        "the default configuration (trial 0) has no honest score to compare with"
    )


def test_a_trial_that_is_ahead_and_has_not_ended_is_named(tmp_path: Path) -> None:
    states = [("running", [1.5], ""), ("stopped", [20.0], ""), ("pending", [2.0], "")]
    interrupted = write_run(tmp_path / "run", states)
    assert gain_line(rank(load_results(interrupted))) == (
        "the default configuration (trial 0) has not ended, and is ahead with 1.5"
    )


def test_best_is_a_configuration_that_train_takes(run: Path) -> None:
    text = best_yaml(run)
    assert text.startswith(
        "# trial 2 of 'run', chosen by its best fid_proxy, 5 at iteration 200, of one seed\n"
    )
    config = GanConfig.parse(parse_yaml(text))
    assert config.gen_lr == 1e-4
    assert config.disc_hidden == (32, 16)
    assert config.gen_hidden == (32,)
    assert config.num_iterations == 300


def test_no_best_where_none_is_ranked(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [COLLAPSED, *TRIALS[3:5], COLLAPSED])
    with pytest.raises(SweepFailedError) as caught:
        best_trial(rank(load_results(folder)))
    assert str(caught.value) == (
        "no trial can be ranked (2 collapsed, 1 diverged, 1 failed); "
        "causes: 2 of at iteration 200: coverage 0.01 for 3 evaluations, "
        "1 of at iteration 200: gen_loss is nan, 1 of ValueError: <b>boom</b>"
    )


def test_the_commonest_causes_alone_are_said(tmp_path: Path) -> None:
    causes = ["a", "b", "b", "c", "c", "d", "d"]
    failed: list[Trial] = [("failed", [], cause) for cause in causes]
    folder = write_run(tmp_path / "run", failed)
    for number in range(len(failed)):
        (folder / f"trial_{number:05d}").mkdir()
    with pytest.raises(SweepFailedError) as caught:
        best_trial(rank(load_results(folder)))
    assert str(caught.value) == (
        "no trial can be ranked (7 failed); causes: 2 of b, 2 of c, 2 of d, 1 others"
    )


def test_records_are_json(run: Path) -> None:
    records = json.loads(json.dumps(ranking_records(rank(load_results(run)))))
    assert records[0] == {
        "rank": 1,
        "tied_with": None,
        "trial": 2,
        "state": "completed",
        "cause": "",
        "best_fid_proxy": 5.0,
        "best_iteration": 200,
        "fid_proxy_se": None,
        "degenerate": False,
        "fid_proxy": 9.0,
        "iteration": 300,
        "instrument": None,
        "config": {"gen_lr": 1e-4, "disc_hidden": "32,16"},
    }
    assert records[4]["best_fid_proxy"] is None
    assert records[-1]["rank"] is None


def _with(run: Path, number: int, **values: object) -> None:
    """Add fields to the reports of a trial."""
    path = run / f"trial_{number:05d}" / "result.json"
    reports = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**report, **values}) + "\n" for report in reports))


def test_degenerate_samples_are_ranked_below_all_honest_ones(run: Path) -> None:
    _with(run, 2, degenerate=True)
    ranked = rank(load_results(run))
    assert list(ranked["trial"][:3]) == [0, 1, 2]
    assert list(ranked["degenerate"][:3]) == [False, False, True]
    assert best_trial(ranked)["trial"] == 0
    shown = io.StringIO()
    Console(file=shown, width=200).print(ranking_table(ranked))
    assert any(line.split()[:2] == ["3!", "2"] for line in shown.getvalue().splitlines())


def test_a_report_of_honest_samples_is_better_than_any_of_degenerate_ones(run: Path) -> None:
    path = run / "trial_00002" / "result.json"
    first, second, third = path.read_text().splitlines()
    repeating = json.dumps({**json.loads(second), "degenerate": True})
    path.write_text(f"{first}\n{repeating}\n{third}\n")
    row = load_results(run).iloc[2]
    assert (row["best_fid_proxy"], row["best_iteration"], row["degenerate"]) == (9.0, 300, False)


def test_degenerate_samples_are_on_no_front_with_honest_ones(tmp_path: Path) -> None:
    sweep = SWEEP + "search: {objectives: [fid_proxy, train_time_s]}\n"
    run = write_run(tmp_path / "run", [("completed", [s], "") for s in (2.0, 10.0, 20.0)], sweep)
    _with(run, 0, degenerate=True)
    for number in range(3):
        _with(run, number, train_time_s=5.0)
    ranked = rank(load_results(run)).set_index("trial")
    assert ranked["pareto"].to_dict() == {1: True, 2: False, 0: False}


def test_no_gain_is_claimed_over_a_degenerate_default(run: Path) -> None:
    _with(run, 0, degenerate=True)
    assert gain_line(rank(load_results(run))) == (
        "the default configuration (trial 0) has no honest score to compare with; trial 5, which has "
        "not ended, is ahead with 3"
    )


def test_what_rounding_left_of_a_standard_error_is_nothing(run: Path) -> None:
    _with(run, 2, fid_proxy_se=1.76e-32)
    shown = io.StringIO()
    Console(file=shown, width=200).print(ranking_table(rank(load_results(run))))
    assert shown.getvalue().splitlines()[2].split()[:5] == ["1", "2", "completed", "5", "0"]


def test_whole_numbers_stay_whole_where_others_have_none(tmp_path: Path) -> None:
    sweep = (
        "name: t\ngan: {dataset: digits, num_iterations: 300}\n"
        "space: {loss: {choice: [hinge, wasserstein]}, "
        "gp_weight: {choice: [1, 10], when: {loss: wasserstein}}}\n"
    )
    run = write_run(tmp_path / "run", [("completed", [1.0], ""), ("completed", [2.0], "")], sweep)
    configs = [{"loss": "hinge"}, {"loss": "wasserstein", "gp_weight": 10}]
    for number, config in enumerate(configs):
        append_line(run / "trials.jsonl", {"trial": number, "state": "completed", "config": config})
    rows = ranking_records(rank(load_results(run)))
    assert [row["config"]["gp_weight"] for row in rows] == [None, 10]
    assert all(type(row["config"]["gp_weight"]) is not float for row in rows)
    assert list(rank_runs([run], Rule(), "gp_weight > 1")["trial"]) == [1]


@pytest.mark.parametrize("best", [0.0, -1e-9])
def test_below_zero_nothing_is_so_many_times_lower(best: float, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [("completed", [3.0], ""), ("completed", [best], "")])
    assert " scores 3: lower, by one seed each" in gain_line(rank(load_results(run)))


def test_a_narrow_terminal_has_the_configurations_below(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tune_gan.results.show.table_console", lambda: Console(width=100))
    ranked = rank(load_results(run)).drop(columns="cause").assign(cause="")
    print_ranking(ranked)
    assert "configuration" not in capsys.readouterr().out
    monkeypatch.setattr(
        "tune_gan.results.show.table_console",
        lambda: Console(width=80, force_terminal=True, color_system=None),
    )
    print_ranking(ranked)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "    2  gen_lr 0.0001, disc_hidden 32,16" in lines
    assert max(map(len, lines)) <= 100


def test_what_the_score_of_a_rule_is_stands_below(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_ranking(rank_runs([run], Rule.parse("common-budget")))
    said = "score: the lowest fid_proxy up to iteration 100, which all have reached, by which these are"
    assert said in capsys.readouterr().out


def test_where_all_are_degenerate_no_gain_is_claimed(run: Path) -> None:
    for number in (0, 1, 2):
        _with(run, number, degenerate=True)
    assert "no trial of those that have ended learned the data" in gain_line(rank(load_results(run)))


def test_scores_within_the_noise_of_each_other_are_tied(tmp_path: Path) -> None:
    """Each is compared with the first of its place: trial 2 is near 1, yet not tied with 0."""
    scores = [10.0, 11.0, 11.5, 14.0, 14.0]
    run = write_run(tmp_path / "run", [("completed", [score], "") for score in scores])
    for number in range(5):
        _with(run, number, fid_proxy_se=0.5)
    ranked = rank(load_results(run))
    # 1.96 times the root of 0.5: 1.39.
    assert ranked["tied_with"].fillna(-1).tolist() == [-1, 0, -1, -1, 3]
    assert "tied with 1 in the noise of the score" in best_yaml(run).splitlines()[0]
    shown = io.StringIO()
    Console(file=shown, width=200).print(ranking_table(ranked))
    assert [line.split()[0] for line in shown.getvalue().splitlines()[2:]] == [
        "1",
        "2=",
        "3",
        "4",
        "5=",
    ]


def test_the_legend_names_the_instrument_and_the_floor(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1, 2):
        _with(
            run,
            number,
            instrument="digits-lenet-v1, N=2000",
            fid_proxy_se=100.0,
            degenerate=number == 0,
        )
    print_ranking(rank(load_results(run)), floor=Floor("", 1297, [0.335]))
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "fid_proxy by digits-lenet-v1, N=2000; +- is its standard error",
        "real training samples, 1,297 at a time, score 0.335",
        "=: tied with the rank above that has no =, in the noise of the score",
        "!: degenerate, samples that repeat a few or are all but of one class",
    ]


def _with_instrument(run: Path, number: int, instrument: object) -> None:
    path = run / f"trial_{number:05d}" / "result.json"
    reports = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**r, "instrument": instrument}) + "\n" for r in reports))


def test_scores_of_different_instruments_are_never_ranked_together(run: Path) -> None:
    for number in (0, 1, 2):
        _with_instrument(run, number, "mnist-lenet-v1, N=2000")
    table = load_results(run)
    assert list(table["instrument"][:3]) == ["mnist-lenet-v1, N=2000"] * 3
    assert table["instrument"][3:].isna().all()
    assert len(rank(table)) == len(table)
    _with_instrument(run, 1, "mnist-lenet-v1, N=500")
    message = (
        "scores of different instruments do not compare "
        "(mnist-lenet-v1, N=2000: 2 trials; mnist-lenet-v1, N=500: 1 trials); rank each by itself"
    )
    with pytest.raises(IncomparableError) as caught:
        rank(load_results(run))
    assert str(caught.value) == message
    # What a stranger wrote is no name.
    _with_instrument(run, 1, ["x"])
    assert rank(load_results(run))["rank"].max() > 1


def test_table_shows_every_trial_and_its_cause(run: Path) -> None:
    text = io.StringIO()
    Console(file=text, width=200).print(ranking_table(rank(load_results(run))))
    lines = text.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[2].split()[:4] == ["1", "2", "completed", "5"]
    assert "scheduler" not in text.getvalue()
    assert "coverage 0.01 for 3 evaluations" in lines[7]
    assert "ValueError: <b>boom</b>" in lines[9]


def test_a_narrow_table_cuts_no_number(run: Path) -> None:
    text = io.StringIO()
    Console(file=text, width=70).print(ranking_table(rank(load_results(run))))
    assert "…" not in text.getvalue()


_FOR_A_FRONT: list[Trial] = [
    ("completed", [90.0, 50.0, 60.0], ""),
    ("completed", [80.0, 70.0, 75.0], ""),
    ("completed", [70.0, 5.0, 9.0], ""),
    ("stopped", [1.0], "scheduler"),
]


@pytest.mark.parametrize(
    ("objective", "values"),
    [
        ("train_time_s", [3.0, 6.0, 9.0, 4.0]),
        ("samples_per_s", [1000.0, 500.0, pytest.approx(1000 / 3), 250.0]),
    ],
)
def test_a_second_objective_has_a_pareto_front(
    tmp_path: Path, objective: str, values: list[float]
) -> None:
    sweep = f"{SWEEP}search: {{objectives: [fid_proxy, {objective}]}}\n"
    table = load_results(write_run(tmp_path / "run", _FOR_A_FRONT, sweep))
    assert list(table[objective]) == values
    ranked = rank(table)
    assert list(ranked["trial"]) == [3, 2, 0, 1]
    assert list(ranked["pareto"]) == [False, True, True, False]
    record = ranking_records(ranked)[1]
    assert (record[objective], record["pareto"]) == (values[2], True)
    assert record["config"] == {"gen_lr": 1e-4, "disc_hidden": "32,16"}


def test_equals_are_both_on_the_front(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run", [TRIALS[0], TRIALS[0]], f"{SWEEP}search: {{objectives: [x, train_time_s]}}"
    )
    shutil.copy(folder / "trial_00000/result.json", folder / "trial_00001/result.json")
    assert list(rank(load_results(folder))["pareto"]) == [True, True]


def test_a_trial_without_reports_is_on_no_front(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run", _FOR_A_FRONT, f"{SWEEP}search: {{objectives: [x, train_time_s]}}"
    )
    shutil.rmtree(folder / "trial_00000")
    ranked = rank(load_results(folder)).set_index("trial")
    assert [ranked["pareto"][n] for n in range(4)] == [False, True, True, False]


def test_without_a_second_objective_there_is_no_front(run: Path) -> None:
    ranked = rank(load_results(run))
    assert not {"pareto", "train_time_s", "samples_per_s"} & set(ranked.columns)


def test_samples_a_second_are_over_the_whole_trial() -> None:
    reports: list[dict[str, Any]] = [
        {"train_time_s": 1.0, "samples_per_s": 100.0},
        {"train_time_s": 3.0, "samples_per_s": 40.0},
    ]
    assert objective_of(reports, "samples_per_s") == 60.0
    assert objective_of(reports, "train_time_s") == 3.0


@pytest.mark.parametrize("rate", [None, "fast"])
def test_samples_a_second_of_a_report_without_them_are_left_out(rate: object) -> None:
    reports: list[dict[str, Any]] = [
        {"train_time_s": 1.0, "samples_per_s": 100.0},
        {"train_time_s": 2.0, "samples_per_s": rate},
    ]
    assert objective_of(reports, "samples_per_s") in (50.0, 100.0)


@pytest.mark.parametrize("reports", [[], [{}], [{"train_time_s": None}], [{"train_time_s": 0.0}]])
def test_no_time_no_second_objective(reports: list[dict[str, Any]]) -> None:
    assert objective_of(reports, "train_time_s") is None
    assert objective_of(reports, "samples_per_s") is None


@pytest.mark.parametrize("objectives", ["3", "train_time_s", "[[1]]", "null", "{a: b}"])
def test_foreign_objectives_are_none(tmp_path: Path, objectives: str) -> None:
    sweep = f"{SWEEP}search: {{objectives: {objectives}}}\n"
    table = load_results(write_run(tmp_path / "run", TRIALS, sweep))
    assert list(table.columns)[-2:] == ["gen_lr", "disc_hidden"]
    assert "train_time_s" not in table.columns


def test_a_line_that_is_being_written_is_left_out(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = run / "trial_00005" / "result.json"
    with path.open("a") as file:
        file.write('{"iteration": 200, "fid_pro')
    assert load_results(run).iloc[5]["iteration"] == 100
    assert caplog.messages == [f"{path}: 1 damaged lines left out"]


def test_damaged_lines_of_the_list_are_left_out_with_a_warning(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = run / "trials.jsonl"
    lines = path.read_text().splitlines()
    damaged = [i for i, line in enumerate(lines) if line.startswith('{"trial": 1, "state": "stopped"')]
    lines[damaged[0]] = lines[damaged[0]][:-5]
    path.write_text("\n".join([*lines, "[1]", "\x00\x00", ""]))
    table = load_results(run)
    assert caplog.messages == [f"{path}: 3 damaged lines left out"]
    assert list(table["trial"]) == list(range(8))
    assert list(table["state"])[:3] == ["completed", "running", "completed"]


@pytest.mark.parametrize(
    "line",
    [
        '{"state": "completed"}',
        '{"trial": "1", "state": "completed"}',
        '{"trial": true, "state": "completed"}',
        '{"trial": -1, "state": "completed"}',
        '{"trial": 1, "state": "done"}',
        '{"trial": 1, "state": ["completed"]}',
    ],
)
def test_lines_that_say_nothing_of_a_trial_are_left_out_with_a_warning(
    run: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_results(run)
    path = run / "trials.jsonl"
    with path.open("a") as file:
        file.write(f"{line}\n")
    pd.testing.assert_frame_equal(load_results(run), before)
    assert caplog.messages == [f"{path}: 1 damaged lines left out"]


def test_a_list_of_nothing_but_damage_is_one_clear_error(run: Path) -> None:
    path = run / "trials.jsonl"
    path.write_text("\x00\x00\x00\n")
    with pytest.raises(RunFolderError) as caught:
        load_results(run)
    assert str(caught.value) == (
        f"{path} is damaged: it lists no trial; `tune-gan resume` makes it anew"
    )


def test_a_trial_whose_folder_is_missing_says_so(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(run / "trial_00002")
    shutil.rmtree(run / "trial_00003")
    ranked = rank(load_results(run))
    assert caplog.messages == [
        f"{run / 'trial_00002'} is missing",
        f"{run / 'trial_00003'} is missing",
    ]
    rows = ranked.set_index("trial")
    assert rows["cause"][2] == "its folder is missing"
    assert rows["cause"][3] == "ValueError: <b>boom</b>; its folder is missing"
    assert list(ranked["trial"])[:3] == [0, 1, 2]
    assert list(ranked["rank"].fillna(0))[:3] == [1, 2, 0]


def _lose_the_configuration(run: Path, trial: int) -> Path:
    path = run / "trials.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if f'"trial": {trial}, "state": "run' not in line))
    return path


def test_a_configuration_that_the_list_lost_is_in_the_trials_folder(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_results(run)
    _lose_the_configuration(run, 2)
    (run / "trial_00002" / "params.json").write_text('{"gen_lr": 1e-4, "disc_hidden": "32,16"}')
    pd.testing.assert_frame_equal(load_results(run), before)
    assert caplog.messages == []


@pytest.mark.parametrize("text", [None, "", "[1]", "{"])
def test_a_trial_whose_configuration_is_lost_has_no_rank(
    run: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = _lose_the_configuration(run, 2)
    if text is not None:
        (run / "trial_00002" / "params.json").write_text(text)
    ranked = rank(load_results(run))
    assert caplog.messages == [f"{path}: the configuration of trial 2 is lost"]
    assert list(ranked["trial"])[:3] == [0, 1, 5]
    row = ranked.set_index("trial").loc[2]
    assert (row["state"], row["cause"]) == ("failed", "its configuration is lost")
    assert best_yaml(run).startswith("# trial 0 of 'run', ")


def test_a_run_that_has_only_begun_is_empty(run: Path) -> None:
    (run / "trials.jsonl").write_text("")
    for folder in run.glob("trial_*"):
        shutil.rmtree(folder)
    table = load_results(run)
    assert table.empty
    assert list(table.columns)[-2:] == ["gen_lr", "disc_hidden"]
    with pytest.raises(SweepFailedError) as caught:
        best_trial(rank(table))
    assert str(caught.value) == "no trial can be ranked (none has started)"


def test_what_is_no_run_folder(tmp_path: Path, run: Path) -> None:
    with pytest.raises(RunFolderError) as caught:
        load_results(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is no run folder: it holds no sweep.yaml; the last runs in it: run"
    )
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is no run folder: it is a file"):
        load_results(tmp_path / "file")
    (run / "sweep.yaml").write_text("name: x\n")
    with pytest.raises(RunFolderError) as caught:
        read_sweep(run)
    assert str(caught.value) == f"{run / 'sweep.yaml'} is damaged: it describes no sweep"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "gan: {}\nspace: 3\n",
        "gan: [1]\nspace: {}\n",
        "gan: {num_iterations: x}\nspace: {}\n",
        "gan: {num_iterations: 5, no: 1}\nspace: {}\n",
        "gan: {\n",
        "\x00",
    ],
)
def test_a_damaged_sweep_file_leaves_every_row_and_a_warning(
    run: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_results(run)
    path = run / "sweep.yaml"
    path.write_text(text)
    pd.testing.assert_frame_equal(load_results(run), before)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{path} is damaged: ")
    with pytest.raises(RunFolderError) as caught:
        best_yaml(run)
    assert str(caught.value) == caplog.messages[0]
    assert "\n" not in str(caught.value)


def test_a_missing_sweep_file_leaves_every_row_and_a_warning(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_results(run)
    (run / "sweep.yaml").unlink()
    pd.testing.assert_frame_equal(load_results(run), before)
    message = f"{run} is no run folder: it holds no sweep.yaml"
    assert caplog.messages == [message]
    with pytest.raises(RunFolderError) as caught:
        best_yaml(run)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "score",
    ["null", "NaN", '"low"', "Infinity", "[1]", "true", pytest.param("1" + "0" * 400, id="huge")],
)
def test_reports_without_a_score_are_left_out(run: Path, score: str) -> None:
    with (run / "trial_00000" / "result.json").open("a") as file:
        file.write(f'{{"iteration": 400, "fid_proxy": {score}}}\n')
    assert load_results(run).iloc[0]["iteration"] == 300


@pytest.mark.parametrize(
    "iteration", ["null", "4.5", '"400"', "true", pytest.param("1" + "0" * 30, id="huge")]
)
def test_reports_without_an_iteration_are_left_out(run: Path, iteration: str) -> None:
    with (run / "trial_00000" / "result.json").open("a") as file:
        file.write(f'{{"iteration": {iteration}, "fid_proxy": 1.0}}\n')
    row = load_results(run).iloc[0]
    assert (row["iteration"], row["best_fid_proxy"]) == (300, 50.0)


def test_a_report_that_was_made_twice_counts_once(run: Path) -> None:
    with (run / "trial_00000" / "result.json").open("a") as file:
        file.write('{"iteration": 200, "fid_proxy": 55.0}\n')
    row = load_results(run).iloc[0]
    assert (row["best_fid_proxy"], row["best_iteration"]) == (55.0, 200)
    assert (row["fid_proxy"], row["iteration"]) == (60.0, 300)


def test_a_folders_name_stays_in_the_comment(run: Path, tmp_path: Path) -> None:
    renamed = run.rename(tmp_path / "x\ngen_lr: 0.5")
    assert GanConfig.parse(parse_yaml(best_yaml(renamed))).gen_lr == 1e-4


def test_names_of_trials_are_not_taken_from_left_over_folders(run: Path) -> None:
    (run / "trial_00099").mkdir()
    assert 99 not in set(load_results(run)["trial"])


@pytest.mark.parametrize(
    "config",
    [
        {"gen_lr": [1, 2], "disc_hidden": "64"},
        {"gen_lr": [], "disc_hidden": "64"},
        {"gen_lr": {"a": 1}, "disc_hidden": "64"},
        {"gen_lr": None, "trial": 7, "state": "completed", "rank": 1, "best_fid_proxy": 0.0},
    ],
)
@pytest.mark.parametrize("has_sweep", [True, False])
def test_foreign_configurations_are_shown_and_change_nothing_else(
    run: Path, config: dict[str, Any], has_sweep: bool
) -> None:
    before = rank(load_results(run))
    append_line(run / "trials.jsonl", {"trial": 3, "state": "failed", "cause": "x", "config": config})
    if not has_sweep:
        (run / "sweep.yaml").unlink()
    ranked = rank(load_results(run))
    assert list(ranked["trial"]) == list(before["trial"])
    assert list(ranked["rank"].fillna(0)) == list(before["rank"].fillna(0))
    assert [record["trial"] for record in ranking_records(ranked)] == list(before["trial"])
    Console(file=io.StringIO()).print(ranking_table(ranked))


@pytest.mark.parametrize("search", ["null", "3", "[]", "{}"])
def test_how_far_a_run_of_a_foreign_sweep_file_has_come(tmp_path: Path, search: str) -> None:
    run = write_run(tmp_path / "run", TRIALS, f"{SWEEP}search: {search}\n")
    record = status_record(run)
    assert record["num_trials"] == 7
    assert record["states"] == {
        "completed": 2,
        "stopped": 1,
        "failed": 1,
        "diverged": 1,
        "running": 1,
        "pending": 1,
    }
    # The one at work counts, too.
    assert (record["best_trial"], record["best_fid_proxy"], record["degenerate"]) == (5, 3.0, False)
    assert record["best_config"] == {"gen_lr": 0.001, "disc_hidden": "32,16"}
    assert (record["best_age_s"], record["seconds_left"], record["running"]) == (None, None, [])


def test_how_far_a_run_has_come_where_none_is_ranked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", TRIALS[3:5], f"{SWEEP}search: {{num_trials: 9}}\n")
    record = status_record(run)
    assert (record["num_trials"], record["best_trial"], record["best_fid_proxy"]) == (9, None, None)

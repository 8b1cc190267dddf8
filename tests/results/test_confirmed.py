"""What a confirmation says: intervals, probabilities and the choice of the best."""

import json
import math
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from tests.results.test_results import SWEEP, TRIALS, write_run
from tune_gan.errors import RunFolderError
from tune_gan.files import append_line
from tune_gan.results import confirmed
from tune_gan.results.confirmed import Confirmed, load_confirmation, not_separable
from tune_gan.results.floor import Floor, read_floor, write_floor
from tune_gan.results.load import load_results
from tune_gan.results.ranking import best_trial_folder, choose, rank
from tune_gan.results.show import (
    best_yaml,
    print_confirmation,
    print_next_steps,
    print_status,
)

# For each candidate, by its trial, and each seed: a score, or the state that it has without one.
Outcomes = dict[int, list[float | str]]
CLEAR: Outcomes = {
    2: [30.0, 31.0, 29.0, 30.5, 29.5],
    0: [10.0, 12.0, 11.0, 13.0, 9.0],
    1: [10.5, 12.5, 11.5, 13.5, 9.5],
}


def write_confirmation(
    run: Path, outcomes: Outcomes, floor: str | None = None, num_ended: int = 5
) -> Path:
    """Write a confirmation in which each score is the mean of three sets of latents.

    By default it was begun when all five trials of `TRIALS` that end had ended.
    """
    folder = run / "confirm"
    folder.mkdir(parents=True)
    seeds = list(range(1, 1 + len(next(iter(outcomes.values())))))
    candidates = json.dumps({str(number): {"gen_lr": 0.001} for number in outcomes})
    how = f"{{candidates: {candidates}, seeds: {seeds}, top: 2, num_ended: {num_ended}}}"
    (folder / "sweep.yaml").write_text(f"{SWEEP}confirmation: {how}\n")
    by_seed = zip(*outcomes.values(), strict=True)
    for number, outcome in enumerate(chain.from_iterable(by_seed)):
        if outcome == "not begun":
            continue
        state = outcome if isinstance(outcome, str) else "completed"
        line = {"trial": number, "state": state, "cause": "", "config": {"gen_lr": 0.001}}
        append_line(folder / "trials.jsonl", line)
        (folder / f"trial_{number:05d}").mkdir()
        report = {"iteration": 300, "evaluation": 3, "fid_proxy": 1.0, "best_fid_proxy": 1.0}
        if not isinstance(outcome, str):
            report |= {"rescored": [outcome - 1, outcome, outcome + 1]}  # type: ignore[dict-item]
        append_line(folder / f"trial_{number:05d}" / "result.json", report)
    if floor is not None:
        (folder / "floor.json").write_text(floor)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", TRIALS)


def _load(run: Path) -> Confirmed:
    found = load_confirmation(run)
    assert found is not None
    return found


def test_a_run_that_was_not_confirmed_has_no_confirmation(run: Path) -> None:
    assert load_confirmation(run) is None
    (run / "confirm").mkdir()
    assert load_confirmation(run) is None


def test_the_interval_is_students(run: Path) -> None:
    table = _load(write_confirmation(run, CLEAR)).table
    assert list(table["rank"]) == [1, 2, 3]
    assert list(table["trial"]) == [0, 1, 2]
    assert list(table["seeds"]) == [5, 5, 5]
    assert list(table["lost"]) == list(table["left"]) == [0, 0, 0]
    for _, row in table.iterrows():
        scores = [score for score in CLEAR[row["trial"]] if isinstance(score, float)]
        assert row["scores"] == scores
        assert row["mean"] == pytest.approx(np.mean(scores))
        low, high = stats.t.interval(0.95, len(scores) - 1, np.mean(scores), stats.sem(scores))
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        welch = stats.ttest_ind([10.0, 12.0, 11.0, 13.0, 9.0], scores, equal_var=False).pvalue
        assert row["p_first"] == pytest.approx(welch)
    # By hand: 11 -+ 2.7764 * sqrt(2.5 / 5).
    assert (table["low"][0], table["high"][0]) == pytest.approx((9.0368, 12.9632), abs=1e-4)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    source, covered = np.random.default_rng(0), 0
    for sample in source.normal(50.0, 7.0, (2000, 5)):
        _, low, high = confirmed.interval_of_mean(sample)
        covered += low <= 50.0 <= high
    assert 0.93 <= covered / 2000 <= 0.97


def test_configurations_that_lost_a_seed_come_last(run: Path) -> None:
    outcomes: Outcomes = {
        2: [1.0, 1.1, "diverged"],
        0: [9.0, 9.5, 9.2],
        1: ["failed", "collapsed", 0.1],
        3: [7.0, 7.5, 7.2],
    }
    found = _load(write_confirmation(run, outcomes))
    assert list(found.table["trial"]) == [3, 0, 1, 2]
    assert list(found.table["lost"]) == [0, 0, 2, 1]
    assert list(found.table["seeds"]) == [3, 3, 1, 2]
    assert list(found.table["left"]) == [0, 0, 0, 0]
    assert found.num_left == 0


def test_one_seed_has_no_interval(run: Path) -> None:
    found = _load(write_confirmation(run, {2: [5.0, "failed"], 0: [6.0, 7.0]}))
    row = found.table.iloc[1]
    assert (row["trial"], row["mean"]) == (2, 5.0)
    assert all(math.isnan(row[name]) for name in ("low", "high", "p_best", "p_first"))
    assert found.table["p_best"][0] == 1.0
    assert not_separable(found) == [2]


def test_the_probabilities_sum_to_1_and_are_right(run: Path) -> None:
    one, other = [10.0, 12.0, 11.0, 13.0, 9.0], [11.0, 14.0, 12.0, 12.5, 13.0]
    found = _load(write_confirmation(run, {2: list(other), 0: list(one), 1: list(CLEAR[2])}))
    assert list(found.table["trial"]) == [0, 2, 1]
    assert found.table["p_best"].sum() == pytest.approx(1)
    first = stats.t(4, np.mean(one), stats.sem(one))
    second = stats.t(4, np.mean(other), stats.sem(other))
    exact, _ = integrate.quad(lambda x: first.pdf(x) * second.sf(x), -50, 80, limit=500)
    assert 0.8 < exact < 0.95
    assert list(found.table["p_best"]) == pytest.approx([exact, 1 - exact, 0], abs=0.01)


def test_the_best_by_far_is_so_with_certainty(run: Path) -> None:
    outcomes: Outcomes = {2: [5.0, 5.01, 4.99], 0: [90.0, 90.01, 89.99]}
    found = _load(write_confirmation(run, outcomes))
    assert list(found.table["p_best"]) == pytest.approx([1, 0], abs=1e-3)
    assert not_separable(found) == []


def test_equals_are_as_likely_the_best(run: Path) -> None:
    found = _load(write_confirmation(run, {2: [5.0, 6.0, 7.0], 0: [5.0, 6.0, 7.0]}))
    assert list(found.table["trial"]) == [0, 2]
    assert list(found.table["p_best"]) == pytest.approx([0.5, 0.5], abs=0.01)
    assert list(found.table["p_first"]) == [1.0, 1.0]


def test_scores_without_any_spread_are_compared(run: Path) -> None:
    outcomes: Outcomes = {2: [5.0, 5.0], 0: [5.0, 5.0], 1: [6.0, 6.0]}
    found = _load(write_confirmation(run, outcomes))
    assert list(found.table["p_first"]) == [1.0, 1.0, 0.0]
    assert not_separable(found) == [2]


def test_what_cannot_be_told_from_the_first(run: Path) -> None:
    assert not_separable(_load(write_confirmation(run, CLEAR))) == [1]


def test_an_unfinished_confirmation_counts_what_is_left(run: Path) -> None:
    outcomes: Outcomes = {
        2: [5.0, 6.0, "running"],
        0: [9.0, "failed", "not begun"],
        1: ["pending", "not begun", "not begun"],
    }
    found = _load(write_confirmation(run, outcomes))
    assert found.num_left == 5
    by_trial = found.table.set_index("trial")
    assert [by_trial["left"][n] for n in (2, 0, 1)] == [1, 1, 3]
    assert [by_trial["seeds"][n] for n in (2, 0, 1)] == [2, 1, 0]
    assert math.isnan(by_trial["mean"][1])


def test_a_trial_without_new_scores_has_lost_its_seed(run: Path) -> None:
    write_confirmation(run, {2: [5.0, 6.0], 0: [7.0, 8.0]})
    append_line(run / "confirm/trial_00003/result.json", {"iteration": 400, "fid_proxy": 1.0})
    table = _load(run).table.set_index("trial")
    assert (table["lost"][0], table["scores"][0]) == (1, [7.0])


def test_a_complete_confirmation_chooses_the_best(run: Path) -> None:
    assert choose(run).trial == 2
    choice = choose(write_confirmation(run, CLEAR))
    assert choice.trial == 0
    p_best = _load(run).table["p_best"][0]
    assert choice.rule == (
        f"by the mean of 5 seeds, 11 (9.037 to 12.96), best with probability {p_best:.2f}"
    )
    assert best_trial_folder(run) == run / "trial_00000"
    assert best_yaml(run).startswith(f"# trial 0 of 'run', chosen {choice.rule}\n")


def test_after_a_confirmation_the_last_words_of_a_sweep_name_its_winner(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_next_steps(run, rank(load_results(run)))
    assert "the best below" not in capsys.readouterr().out
    print_next_steps(write_confirmation(run, CLEAR), rank(load_results(run)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("trial 2 scores ")
    assert lines[2].startswith("the best below is trial 0, by the mean of 5 seeds, ")
    assert lines[3] == f"train with it:       tune-gan train --config {run}/best.yaml"


def test_the_status_of_a_confirmation_names_the_command_that_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_confirmation(run, {2: [5.0, 6.0], 0: [1.0, "not begun"]})
    print_status(run / "confirm", None, None, as_json=False)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"at work: nobody; tune-gan confirm {run} --top 2 --seeds 2 goes on"


@pytest.mark.parametrize(
    "outcomes",
    [
        {2: [5.0, 6.0], 0: [1.0, "running"]},
        {2: [5.0, 6.0], 0: [1.0, "not begun"]},
        {2: ["failed", "failed"], 0: ["diverged", "failed"]},
    ],
)
def test_an_incomplete_confirmation_does_not_choose(run: Path, outcomes: Outcomes) -> None:
    choice = choose(write_confirmation(run, outcomes))
    assert (choice.trial, choice.rule) == (
        2,
        "by its best fid_proxy, 5 at iteration 200, of one seed",
    )


@pytest.mark.parametrize(("num_ended", "trial"), [(6, 0), (5, 0), (4, 2)])
def test_a_confirmation_that_has_not_seen_all_trials_does_not_choose(
    run: Path, num_ended: int, trial: int
) -> None:
    assert choose(write_confirmation(run, CLEAR, num_ended=num_ended)).trial == trial


def test_a_damaged_confirmation_is_one_clear_error_of_the_choice(run: Path) -> None:
    path = write_confirmation(run, CLEAR) / "confirm" / "sweep.yaml"
    path.write_text("gan: {")
    with pytest.raises(RunFolderError) as caught:
        choose(run)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert "\n" not in str(caught.value)


def test_what_real_samples_score(run: Path) -> None:
    write_confirmation(run, CLEAR, '{"num_samples": 1797, "scores": [0.5, 1]}')
    assert _load(run).floor == Floor("", 1797, [0.5, 1.0])


def test_a_floor_is_read_as_it_was_written(tmp_path: Path) -> None:
    floor = Floor("digits-lenet-v1, N=1297", 1297, [0.335])
    write_floor(tmp_path, floor)
    assert read_floor(tmp_path) == floor
    said = "real training samples, 1,297 at a time, score 0.335 by digits-lenet-v1, N=1297"
    assert floor.describe() == said


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", '{"num_samples": 3}', "[" * 9999])
def test_a_damaged_floor_is_none(run: Path, text: str | None) -> None:
    assert _load(write_confirmation(run, CLEAR, text)).floor is None


@pytest.mark.parametrize(
    "how",
    [
        "null",
        "3",
        "{candidates: {x: {}}, seeds: [1], num_ended: 5}",
        "{candidates: {}, seeds: [1], num_ended: 5}",
        "{candidates: 1, seeds: [1], num_ended: 5}",
        '{candidates: {"1": {}}, num_ended: 5}',
        '{candidates: {"1": {}}, seeds: 3, num_ended: 5}',
        '{candidates: {"1": {}}, seeds: [], num_ended: 5}',
        '{candidates: {"1": {}}, seeds: [1]}',
        '{candidates: {"1": {}}, seeds: [1], num_ended: all}',
    ],
)
def test_a_damaged_confirmation_is_one_clear_error(run: Path, how: str) -> None:
    path = write_confirmation(run, CLEAR) / "confirm" / "sweep.yaml"
    path.write_text(f"{SWEEP}confirmation: {how}\n")
    with pytest.raises(RunFolderError) as caught:
        load_confirmation(run)
    assert str(caught.value) == f"{path} is damaged: it confirms nothing"


@pytest.mark.parametrize("rescored", ['"low"', "[]", "[null]", '["low"]', "{}", "[NaN]"])
def test_damaged_new_scores_are_a_lost_seed(run: Path, rescored: str) -> None:
    write_confirmation(run, {2: [5.0, 6.0], 0: [7.0, 8.0]})
    path = run / "confirm" / "trial_00003" / "result.json"
    path.write_text(f'{{"iteration": 300, "fid_proxy": 1.0, "rescored": {rescored}}}\n')
    table = _load(run).table.set_index("trial")
    assert (table["lost"][0], table["scores"][0]) == (1, [7.0])


def test_it_is_printed_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_confirmation(
        run, {2: [5.0, "failed"], 0: [6.0, 8.0]}, '{"num_samples": 9000, "scores": [0.5]}'
    )
    print_confirmation(_load(run), as_json=True)
    values = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert values["real_samples"] == {"instrument": "", "num_samples": 9000, "scores": [0.5]}
    assert values["instrument"] is None
    assert values["left"] == 0
    first, second = values["configurations"]
    assert second == {
        "rank": 2,
        "trial": 2,
        "seeds": 1,
        "lost": 1,
        "left": 0,
        "mean": 5.0,
        "low": None,
        "high": None,
        "scores": [5.0],
        "p_best": None,
        "p_first": None,
    }
    assert (first["trial"], first["mean"], first["scores"]) == (0, 7.0, [6.0, 8.0])
    assert first["p_best"] == 1.0


def _printed(run: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_confirmation(_load(run), as_json=False)
    return capsys.readouterr().out.splitlines()


def test_it_is_printed_as_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_confirmation(run, CLEAR, '{"num_samples": 9000, "scores": [0.5, 0.25]}')
    lines = _printed(run, capsys)
    heading = "rank trial seeds lost mean low high p_best p_first"
    assert lines[0].split() == heading.split()
    assert lines[1].split()[:7] == ["1", "0", "5", "0", "11", "9.04", "13"]
    assert lines[3].split()[:5] == ["3", "2", "5", "0", "30"]
    assert lines[4] == ""
    assert lines[5] == (
        "low and high: 95 % interval of the mean over seeds (Student's t); "
        "p_best: probability of the lowest mean; p_first: p of the difference to the first (Welch)"
    )
    assert lines[6] == "real training samples, 9,000 at a time, score 0.5, 0.25"
    assert lines[7:] == ["not separable from the first, trial 0, at the 5 % level: 1"]


def test_the_table_says_where_all_are_separable(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_confirmation(run, {2: [5.0, 5.1], 0: [9.0, 9.1]})
    assert _printed(run, capsys)[-1] == (
        "all others are separable from the first, trial 2, at the 5 % level"
    )


def test_the_table_says_what_is_left(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_confirmation(run, {2: [5.0, "running"], 0: [9.0, "not begun"]})
    lines = _printed(run, capsys)
    assert lines[-1] == "2 trainings are left"
    assert not any("separable" in line for line in lines)

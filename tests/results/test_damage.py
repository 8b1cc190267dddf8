"""A run folder each of whose files is emptied, cut, altered or lost: what is whole is never lost."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pytest

from tests.search.test_spec import SPEC
from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError, RunFolderError, TuneGanError
from tune_gan.files import append_line
from tune_gan.results.load import COLUMNS, load_results
from tune_gan.results.ranking import rank
from tune_gan.results.trials import METRIC, read_trials
from tune_gan.search.spec import SweepSpec
from tune_gan.search.study import SweepStudy
from tune_gan.settings import read_yaml

_T = TypeVar("_T")

_SCORES = [[90.0, 50.0, 60.0], [80.0], [4.0, 1e6], [20.0], [70.0, 5.0, 9.0], [30.0, 31.0], []]
_ENDS = {
    0: ("completed", ""),
    1: ("stopped", "scheduler"),
    2: ("diverged", "at iteration 200: gen_loss is nan"),
    3: ("failed", "ValueError: <b>boom</b>"),
    4: ("completed", ""),
}
_FILES = [
    "sweep.yaml",
    "trials.jsonl",
    "optuna_journal.log",
    "trial_00000/result.json",
    "environment.json",
]
_DAMAGES = ["empty", "missing", *(f"{how} {i}" for how in ("cut", "flip") for i in range(10))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that was killed while trial 5 ran and trial 6 waited."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    folder.mkdir()
    spec = SweepSpec.parse(SPEC)
    (folder / "sweep.yaml").write_text(spec.to_yaml())
    (folder / "environment.json").write_text(json.dumps({"host": "host", "python": "3.11"}, indent=2))
    study = SweepStudy(folder, spec)
    listed = []
    for number, scores in enumerate(_SCORES):
        values = (
            {"gen_lr": 10.0 ** -(number % 3 + 2), "disc_steps": 2} if number else spec.default_point
        )
        study.add(values)
        trial = {"experiment_tag": str(number), "status": "TERMINATED", "config": values}
        listed.append([json.dumps(trial), "{}"])
        (folder / f"trial_{number:05d}").mkdir()
        for i, score in enumerate(scores):
            best = min(scores[: i + 1])
            report = {"iteration": 100 * (i + 1), "evaluation": i + 1, "fid_proxy": score}
            timing = {"train_time_s": i + 1.0, "samples_per_s": 900.0, "state": "running"}
            path = folder / f"trial_{number:05d}" / "result.json"
            append_line(path, {**report, METRIC: best, **timing, "cause": ""})
            study.report(number, i + 1, best)
    for number, (state, cause) in _ENDS.items():
        study.end(number, state, cause, [min(_SCORES[number])])
    study.requeue(6)
    # Ray Tune leaves its own list behind, by its own order.
    text = json.dumps({"trial_data": listed[::-1]})
    (folder / "experiment_state-2026-11-21_09-52-22.json").write_text(text)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def _harm(path: Path, damage: str) -> None:
    how = damage.split()[0]
    content = bytearray(path.read_bytes())
    source = random.Random(f"{path.name} {damage}")  # noqa: S311 -- nothing secret
    place = source.randrange(1, len(content))
    if how == "missing":
        path.unlink()
        return
    if how == "flip":
        content[place] ^= 1 << source.randrange(8)
    path.write_bytes(content[: {"empty": 0, "cut": place}.get(how, len(content))])


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return the objects in a file of JSON lines, and whether it holds anything else."""
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    objects, others = [], False
    for line in filter(str.strip, text.split("\n")):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        objects += [value] if isinstance(value, dict) else []
        others |= not isinstance(value, dict)
    return objects, others


def _is_sweep(path: Path) -> bool:
    try:
        values = read_yaml(path)
        GanConfig.parse(values["gan"])
        return isinstance(values["space"], dict)
    except (ConfigError, TypeError, KeyError):
        return False


def _attempt(read: Callable[[], _T]) -> tuple[_T | None, str]:
    try:
        return read(), ""
    except TuneGanError as error:
        return None, str(error)


def _by_trial(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("trial").sort_index().drop(columns="rank").astype(object)


def test_the_whole_folder(whole: Path, caplog: pytest.LogCaptureFixture) -> None:
    ranked = rank(load_results(whole))
    assert list(ranked["trial"]) == [4, 0, 1, 5, 6, 2, 3]
    assert list(ranked["rank"].fillna(0)) == [1, 2, 3, 0, 0, 0, 0]
    assert caplog.messages == []


@pytest.mark.parametrize("damage", _DAMAGES)
@pytest.mark.parametrize("name", ["sweep.yaml", "optuna_journal.log", "environment.json"])
def test_what_says_nothing_of_trials_leaves_every_row(
    whole: Path, run: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = rank(load_results(whole))
    _harm(run / name, damage)
    ranked = rank(load_results(run))
    # Another word in it may still be a sweep, of other fields.
    unnoticed = name != "sweep.yaml" or _is_sweep(run / name)
    shown = ["rank", *COLUMNS] if name == "sweep.yaml" and unnoticed else list(before.columns)
    pd.testing.assert_frame_equal(ranked[shown], before[shown])
    if unnoticed:
        assert caplog.messages == []
    else:
        assert len(caplog.messages) == 1
        assert "sweep.yaml" in caplog.messages[0]


@pytest.mark.parametrize("damage", _DAMAGES)
def test_damaged_reports_touch_no_other_trial(
    whole: Path, run: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = _by_trial(rank(load_results(whole)))
    path = run / "trial_00000" / "result.json"
    reports_before, _ = _whole_lines(path)
    _harm(path, damage)
    after = _by_trial(rank(load_results(run)))
    pd.testing.assert_frame_equal(after.loc[1:], before.loc[1:])
    assert after["state"][0] == "completed"
    reports, noticed = _whole_lines(path)
    assert caplog.messages == ([f"{path}: 1 damaged lines left out"] if noticed else [])
    # A line that was altered and still is JSON says something else, and cannot be told from one that
    # was not.
    if all(report in reports_before for report in reports):
        scores = {report["fid_proxy"]: report["iteration"] for report in reports}
        best = min(scores, default=None)
        assert after["best_fid_proxy"].fillna(-1)[0] == (best if best is not None else -1)
        assert after["iteration"].fillna(-1)[0] == max(scores.values(), default=-1)


@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_damaged_list_shows_every_trial_of_a_whole_line(
    whole: Path, run: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = _by_trial(rank(load_results(whole)))
    path = run / "trials.jsonl"
    lines_before, _ = _whole_lines(path)
    _harm(path, damage)
    lines, noticed = _whole_lines(path)
    after, problem = _attempt(lambda: _by_trial(rank(load_results(run))))
    if after is None:
        assert not lines
        assert str(path) in problem
        assert "\n" not in problem
        return
    assert lines, "a list without a trial passed for that of a sweep that has only begun"
    assert any(str(path) in message for message in caplog.messages) == noticed
    if not all(line in lines_before for line in lines):
        return
    assert list(after.index) == sorted({line["trial"] for line in lines})
    for number in after.index:
        own = [line for line in lines if line["trial"] == number]
        if own == [line for line in lines_before if line["trial"] == number]:
            pd.testing.assert_series_equal(after.loc[number], before.loc[number])
        assert after["best_fid_proxy"].fillna(0)[number] == before["best_fid_proxy"].fillna(0)[number]


def _reopen(run: Path) -> list[tuple[int, str, str, dict[str, Any], dict[int, float]]]:
    study = SweepStudy(run)
    study.settle()
    return [(t.number, t.state, t.cause, t.values, t.reports) for t in study.trials]


@pytest.mark.parametrize("damage", _DAMAGES)
@pytest.mark.parametrize("name", _FILES)
def test_no_trial_is_lost_when_the_sweep_is_resumed(
    whole: Path, run: Path, name: str, damage: str, tmp_path: Path
) -> None:
    before = _reopen(Path(shutil.copytree(whole, tmp_path / "whole")))
    _harm(run / name, damage)
    after, problem = _attempt(lambda: _reopen(run))
    if after is None:
        assert name in problem
        assert "\n" not in problem
        return
    assert [trial[0] for trial in after] == list(range(7))
    assert [trial.number for trial in read_trials(run)] == list(range(7))
    if name != "optuna_journal.log":
        assert after == before


@pytest.mark.parametrize("damage", ["empty", "missing"])
def test_a_lost_study_is_made_anew_from_the_list(
    whole: Path, run: Path, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = _reopen(Path(shutil.copytree(whole, tmp_path / "whole")))
    _harm(run / "optuna_journal.log", damage)
    assert _reopen(run) == before
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{run / 'optuna_journal.log'} ")
    assert caplog.messages[0].endswith(": made anew from trials.jsonl, 7 trials")


@pytest.mark.parametrize("kept", [1, 3, 8])
def test_a_study_that_lost_its_last_lines_is_made_whole_by_the_list(run: Path, kept: int) -> None:
    path = run / "optuna_journal.log"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:kept]))
    assert [(number, state) for number, state, *_ in _reopen(run)] == [
        *((number, state) for number, (state, _) in _ENDS.items()),
        (5, "pending"),
        (6, "pending"),
    ]


@pytest.mark.parametrize("damage", ["empty", "missing"])
def test_without_study_and_list_there_is_nothing_to_resume(run: Path, damage: str) -> None:
    _harm(run / "optuna_journal.log", damage)
    _harm(run / "trials.jsonl", damage)
    with pytest.raises(RunFolderError) as caught:
        SweepStudy(run)
    assert str(caught.value).startswith(f"{run / 'optuna_journal.log'} is ")
    assert str(caught.value).endswith(
        ", and trials.jsonl holds no trials to make it anew from; start a new sweep"
    )


@pytest.mark.parametrize("damage", ["empty", "missing"])
def test_without_study_and_list_no_scores_go_to_other_trials(
    whole: Path, run: Path, damage: str
) -> None:
    before = _by_trial(rank(load_results(whole)))
    _harm(run / "optuna_journal.log", damage)
    _harm(run / "trials.jsonl", damage)
    after, problem = _attempt(lambda: _by_trial(rank(load_results(run))))
    if after is None:
        assert "trials.jsonl" in problem
    else:
        pd.testing.assert_series_equal(after["best_fid_proxy"], before["best_fid_proxy"])
        pd.testing.assert_series_equal(after["gen_lr"], before["gen_lr"])


def test_a_far_number_in_the_list_makes_no_further_trials(run: Path) -> None:
    append_line(run / "trials.jsonl", {"trial": 500, "state": "completed", "cause": ""})
    (run / "optuna_journal.log").unlink()
    after, problem = _attempt(lambda: _reopen(run))
    if after is None:
        assert "trials.jsonl" in problem
    else:
        assert [trial[0] for trial in after] == list(range(7))


@pytest.mark.parametrize("name", ["state", "cause"])
def test_a_study_that_does_not_say_how_a_trial_ended_is_made_anew(
    whole: Path, run: Path, name: str, tmp_path: Path
) -> None:
    before = _reopen(Path(shutil.copytree(whole, tmp_path / "whole")))
    path = run / "optuna_journal.log"
    text = path.read_text()
    assert f'"user_attr":{{"{name}":' in text
    path.write_text(text.replace(f'"user_attr":{{"{name}":', '"user_attr":{"other":', 1))
    assert _reopen(run) == before

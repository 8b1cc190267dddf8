"""By which of its scores a trial is ranked, and which trials are."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.results.test_confirmed import CLEAR, write_confirmation
from tests.results.test_results import write_run
from tune_gan.errors import ConfigError, IncomparableError
from tune_gan.files import append_line
from tune_gan.results.ranking import gain_over_default
from tune_gan.results.rules import Rule, rank_runs

# The third is lucky once; the second is short; the first is steady.
_SCORES = [
    ("completed", [30.0, 12.0, 11.0, 10.0], ""),
    ("stopped", [20.0, 25.0], "scheduler"),
    ("completed", [40.0, 50.0, 5.0, 90.0], ""),
    ("diverged", [1.0, 2.0, 3.0], "gen_loss is nan"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", _SCORES)


@pytest.mark.parametrize(
    ("rule", "order", "scores"),
    [
        ("best", [2, 0, 1], None),
        ("last", [0, 1, 2], [10.0, 25.0, 90.0]),
        ("mean-of-last-2", [0, 1, 2], [10.5, 22.5, 47.5]),
        ("mean-of-last-3", [0, 1, 2], [11.0, 22.5, 145 / 3]),
        # Up to iteration 200, the last that all three have reached.
        ("common-budget", [0, 1, 2], [12.0, 20.0, 40.0]),
    ],
)
def test_each_rule_ranks_by_its_own_score(
    rule: str, order: list[int], scores: list[float] | None, run: Path
) -> None:
    ranked = rank_runs([run], Rule.parse(rule))
    assert ranked["trial"].tolist() == [*order, 3]
    assert ranked["rank"].tolist()[:3] == [1, 2, 3]
    assert pd.isna(ranked["rank"][3])
    assert ("score" in ranked.columns) == (scores is not None)
    if scores is not None:
        assert ranked["score"].tolist()[:3] == pytest.approx(scores)
        gain = gain_over_default(ranked)
        assert gain is not None
        assert gain.default == pytest.approx(dict(zip(order, scores, strict=True))[0])


@pytest.mark.parametrize("rule", ["worst", "mean-of-last-1", "mean-of-last-", "Best", ""])
def test_another_rule_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match="--rule takes one of best, last, mean-of-last-K"):
        Rule.parse(rule)


def test_a_degenerate_last_report_is_below_honest_ones(run: Path) -> None:
    file = run / "trial_00000" / "result.json"
    *before, last = file.read_text().splitlines()
    changed = json.dumps({**json.loads(last), "degenerate": True})
    file.write_text("\n".join([*before, changed]) + "\n")
    assert rank_runs([run], Rule.parse("last"))["trial"].tolist()[:3] == [1, 2, 0]
    assert rank_runs([run], Rule.parse("mean-of-last-2"))["trial"].tolist()[:3] == [1, 2, 0]
    assert rank_runs([run], Rule.parse("best"))["trial"].tolist()[:3] == [2, 0, 1]


def test_by_a_confirmation_only_what_was_confirmed_is_ranked(run: Path) -> None:
    with pytest.raises(ConfigError, match="was not confirmed; run `tune-gan confirm` first"):
        rank_runs([run], Rule.parse("confirmed"))
    write_confirmation(run, CLEAR)
    ranked = rank_runs([run], Rule.parse("confirmed"))
    assert ranked["trial"].tolist() == [0, 1, 2, 3]
    assert ranked["score"].tolist()[:3] == pytest.approx([11.0, 11.5, 30.0])
    # By Welch's test, as `confirm` says it.
    assert [None if pd.isna(t) else t for t in ranked["tied_with"]] == [None, 0, None, None]


def test_a_condition_takes_some_trials(run: Path) -> None:
    ranked = rank_runs([run], Rule(), 'state == "completed" and gen_lr < 0.005')
    assert ranked["trial"].tolist() == [2]
    assert rank_runs([run], Rule(), "trial > 99").empty


@pytest.mark.parametrize(
    "where",
    [
        "disc_stepz == 1",
        "state ==",
        "gen_lr",
        "1 + 1",
        "@missing == 1",
        "state == 'a' and",
        "trial - trial",
        "state.to_csv('x')",
    ],
)
def test_a_condition_that_cannot_be_read_is_one_line(where: str, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"--where ") as error:
        rank_runs([run], Rule(), where)
    assert "\n" not in str(error.value)


def test_several_runs_have_one_budget_in_common(run: Path, tmp_path: Path) -> None:
    other = write_run(
        tmp_path / "other", [("completed", [60.0, 1.0, 1.0, 1.0], ""), ("stopped", [70.0], "")]
    )
    ranked = rank_runs([run, other], Rule.parse("common-budget"))
    # Up to iteration 100, where the shortest trial of both runs ended.
    scores = dict(zip(ranked["run"] + ranked["trial"].astype(str), ranked["score"], strict=True))
    assert scores["run0"] == 30.0
    assert scores["other0"] == 60.0


def test_a_confirmed_tie_is_with_the_first_of_those_shown(run: Path, tmp_path: Path) -> None:
    write_confirmation(run, CLEAR)
    other = write_run(tmp_path / "other", _SCORES)
    write_confirmation(other, {1: [100.0, 101.0, 102.0], 0: [100.5, 101.5, 102.5]})
    ranked = rank_runs([run, other], Rule.parse("confirmed"))
    tied = dict(zip(ranked["run"] + ranked["trial"].astype(str), ranked["tied_with"], strict=True))
    assert tied["run1"] == "run:0"
    assert tied["other1"] is None
    without_first = rank_runs([run], Rule.parse("confirmed"), "trial != 0")
    assert without_first["trial"].tolist()[:2] == [1, 2]
    assert without_first["tied_with"].isna().all()


def test_several_runs_are_ranked_together(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", [("completed", [7.0], ""), ("completed", [70.0], "")])
    ranked = rank_runs([run, other], Rule())
    first = list(zip(ranked["run"], ranked["trial"], ranked["best_fid_proxy"], strict=True))[:3]
    assert first == [("run", 2, 5.0), ("other", 0, 7.0), ("run", 0, 10.0)]
    assert ranked["rank"].tolist()[:5] == [1, 2, 3, 4, 5]
    with pytest.raises(ConfigError, match="named twice"):
        rank_runs([run, run], Rule())


def test_runs_of_different_instruments_are_refused(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", [("completed", [7.0], "")])
    for folder, name in ((run, "a, N=2000"), (other, "b, N=2000")):
        file = folder / "trial_00000" / "result.json"
        lines = [{**json.loads(line), "instrument": name} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(IncomparableError, match="different instruments"):
        rank_runs([run, other], Rule())


def _command(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tune_gan", "rank", *arguments]
    return subprocess.run(command, capture_output=True, check=False)


def test_the_command_prints_every_form(run: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(_command(str(run), "--format", "csv").stdout.decode())))
    assert [(row["rank"], row["trial"], row["best_fid_proxy"]) for row in rows[:2]] == [
        ("1", "2", "5.0"),
        ("2", "0", "10.0"),
    ]
    as_json = _command(str(run), "--json").stdout
    assert as_json == _command(str(run), "--format", "json").stdout
    assert json.loads(as_json)[0]["config"]["disc_hidden"] == "32,16"
    markdown = _command(str(run), "--format", "markdown").stdout.decode().splitlines()
    assert markdown[0].split("|")[1].strip() == "rank"
    assert markdown[2].split("|")[3].strip() == "2"
    (tmp_path / "ranked.parquet").write_bytes(_command(str(run), "--format", "parquet").stdout)
    assert pd.read_parquet(tmp_path / "ranked.parquet")["trial"].tolist() == [2, 0, 1, 3]
    table = _command(str(run), "--rule", "last").stdout.decode()
    assert "trial 0 scores" not in table
    assert "the default configuration (trial 0) is the best" in table


def test_values_of_several_kinds_go_into_parquet_as_text(run: Path, tmp_path: Path) -> None:
    line = {"trial": 0, "state": "completed", "config": {"gen_lr": "fast", "disc_hidden": 64}}
    append_line(run / "trials.jsonl", line)
    (tmp_path / "ranked.parquet").write_bytes(_command(str(run), "--format", "parquet").stdout)
    table = pd.read_parquet(tmp_path / "ranked.parquet").set_index("trial")
    assert table["gen_lr"].to_dict()[0] == "fast"
    assert table["disc_hidden"].to_dict()[2] == "32,16"
    assert table["best_fid_proxy"].to_dict()[2] == 5.0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--format", "xml"], "--format takes one of table, csv, json, markdown, parquet, not 'xml'"),
        (["--json", "--format", "csv"], "--json and --format csv ask for two things; choose one"),
        (["--rule", "confirmed"], "was not confirmed"),
        (["--where", "lr < 1"], "columns: trial, state"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], line: str, run: Path) -> None:
    ended = _command(str(run), *arguments)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert line in ended.stderr.decode()
    assert len(ended.stderr.decode().splitlines()) == 1

"""All reports of a run as a table, and what is kept of them."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.results.test_results import COLLAPSED, TRIALS, write_run
from tune_gan.errors import RunFolderError
from tune_gan.files import append_line
from tune_gan.results import trials as trials_module
from tune_gan.results.load import load_results
from tune_gan.results.reports import CACHE_FILE, best_reports, load_reports
from tune_gan.results.trials import read_trials


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", [*TRIALS, COLLAPSED])


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of reports that are read from now on."""
    read: list[Path] = []
    original = trials_module._read_reports

    def note(path: Path) -> tuple[list[dict[str, Any]], int]:
        read.append(path)
        return original(path)

    monkeypatch.setattr(trials_module, "_read_reports", note)
    return read


def test_a_row_a_report(run: Path) -> None:
    reports = load_reports(run)
    expected = [
        (n, 100 * (i + 1), s)
        for n, (_, scores, _) in enumerate([*TRIALS, COLLAPSED])
        for i, s in enumerate(scores)
    ]
    assert (
        list(reports[["trial", "iteration", "fid_proxy"]].itertuples(index=False, name=None))
        == expected
    )
    assert reports["coverage"].eq(0.5).all()
    assert reports["kid"].isna().all()
    assert best_reports(reports)["fid_proxy"].to_dict()[2] == 5.0


def test_only_what_changed_is_read_again(run: Path, files_read: list[Path]) -> None:
    first = load_reports(run)
    assert (run / CACHE_FILE).is_file()
    files_read.clear()
    pd.testing.assert_frame_equal(load_reports(run, read_trials(run)), first)
    # Of a trial that runs the last report is asked for, too.
    assert {file.parent.name for file in files_read} <= {"trial_00005", "trial_00006"}
    changed = run / "trial_00002" / "result.json"
    append_line(changed, {"iteration": 400, "fid_proxy": 1.5})
    files_read.clear()
    table = load_results(run)
    assert changed in files_read
    assert {file.parent.name for file in files_read} <= {"trial_00002", "trial_00005", "trial_00006"}
    assert table["best_fid_proxy"][2] == 1.5
    # Of one size, and none the less another.
    before = changed.stat()
    changed.write_text(changed.read_text().replace("1.5", "2.5"))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert load_results(run)["best_fid_proxy"][2] == 2.5


def test_a_trial_that_is_gone_is_gone_from_the_table(run: Path) -> None:
    load_reports(run)
    (run / "trial_00002" / "result.json").unlink()
    assert 2 not in load_reports(run)["trial"].tolist()
    assert pd.isna(load_results(run)["best_fid_proxy"][2])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", None])
def test_a_damaged_cache_is_made_anew(content: bytes | None, run: Path) -> None:
    whole = load_reports(run)
    if content is None:
        pd.DataFrame({"trial": ["<script>"], "iteration": [1]}).to_parquet(run / CACHE_FILE)
    else:
        (run / CACHE_FILE).write_bytes(content)
    pd.testing.assert_frame_equal(load_reports(run), whole)
    assert pd.read_parquet(run / CACHE_FILE)["trial"].tolist() == whole["trial"].tolist()


def test_reports_have_the_deviation_of_losses_and_older_ones_none(run: Path) -> None:
    report = {"iteration": 400, "fid_proxy": 2.0, "gen_loss_std": 0.25, "disc_loss_std": None}
    append_line(run / "trial_00002" / "result.json", report)
    for _ in range(2):  # from the file, and from what is kept of it
        table = load_reports(run).query("trial == 2").set_index("iteration")
        assert table["gen_loss_std"].dropna().to_dict() == {400: 0.25}
        assert table["disc_loss_std"].isna().all()


def test_what_an_earlier_version_kept_is_made_anew(run: Path) -> None:
    whole = load_reports(run)
    kept = pq.read_table(run / CACHE_FILE)
    metadata = json.loads(kept.schema.metadata[b"tune_gan"])
    older = kept.drop_columns(["gen_loss_std", "disc_loss_std"])
    metadata["form"] = 1
    pq.write_table(older.replace_schema_metadata({"tune_gan": json.dumps(metadata)}), run / CACHE_FILE)
    pd.testing.assert_frame_equal(load_reports(run), whole)


def test_a_byte_flipped_in_the_cache_is_no_traceback(run: Path) -> None:
    whole = load_reports(run)
    content = (run / CACHE_FILE).read_bytes()
    source = np.random.default_rng(0)
    for place in source.integers(len(content), size=60):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        (run / CACHE_FILE).write_bytes(flipped)
        pd.testing.assert_frame_equal(load_reports(run), whole)


def test_where_nothing_can_be_written_it_is_read_all_the_same(run: Path) -> None:
    # A folder in its place, since root may write everywhere.
    (run / CACHE_FILE).mkdir()
    assert len(load_reports(run)) == len(load_reports(run)) == 13


def test_damaged_lines_are_told_every_time(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    file = run / "trial_00002" / "result.json"
    file.write_text(file.read_text() + "{half a line")
    for _ in range(2):
        caplog.clear()
        assert len(load_reports(run)) == 13
        assert [record.getMessage() for record in caplog.records] == [
            f"{file}: 1 damaged lines left out"
        ]


def test_what_a_stranger_wrote_is_a_number_or_missing(run: Path) -> None:
    odd = {
        "gen_loss": "1.0",
        "disc_loss": True,
        "kid": 10**400,
        "coverage": [1],
        "density": None,
        "time_s": 1e305,
        "degenerate": "yes",
        "instrument": 5,
    }
    line = json.dumps({"iteration": 400, "fid_proxy": 2, **odd})
    with (run / "trial_00002" / "result.json").open("a") as file:
        file.write(f"{line}\n")
    row = load_reports(run).query("trial == 2 and iteration == 400").iloc[0]
    assert row["fid_proxy"] == 2.0
    assert (
        row[["gen_loss", "disc_loss", "kid", "coverage", "density", "time_s", "instrument"]]
        .isna()
        .all()
    )
    assert not row["degenerate"]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        load_reports(tmp_path)

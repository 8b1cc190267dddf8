"""The losses of every iteration of a run as a table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.results.test_results import COLLAPSED, TRIALS, write_run
from tune_gan import load_losses
from tune_gan.errors import RunFolderError, StorageError
from tune_gan.files import append_line
from tune_gan.losses_file import LOSSES_FILE, Rows, write_losses
from tune_gan.results.answers import print_losses
from tune_gan.results.formats import Format
from tune_gan.results.losses import COLUMNS, loss_bands, require_losses

_OF_0_1_0 = Path(__file__).parent / "run_of_0_1_0"


def rows_of(trial: int, first: int, last: int) -> Rows:
    """Losses of the iterations after the first, up to the last, that tell trials and places apart."""
    iterations = np.arange(first + 1, last + 1, dtype=np.float32)[:, None]
    return 1000 * trial + iterations + np.array([0.25, 0.5, 0.75, 0.875], dtype=np.float32)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose trials 0 and 2 and the one that runs, 5, have losses."""
    run = write_run(tmp_path / "run", [*TRIALS, COLLAPSED])
    for trial, last in ((0, 3), (2, 2), (5, 1)):
        write_losses(run / f"trial_{trial:05d}" / LOSSES_FILE, last, rows_of(trial, 0, last))
    return run


def test_a_row_an_iteration_of_every_trial_that_has_losses(run: Path) -> None:
    table = load_losses(str(run))
    assert list(table.columns) == COLUMNS
    assert [str(kind) for kind in table.dtypes] == ["int64"] * 2 + ["float32"] * 4
    assert table["trial"].tolist() == [0, 0, 0, 2, 2, 5]
    assert table["iteration"].tolist() == [1, 2, 3, 1, 2, 1]
    assert table["gen_loss"].tolist() == [1.25, 2.25, 3.25, 2001.25, 2002.25, 5001.25]
    assert table.iloc[4].tolist() == [2, 2, 2002.25, 2002.5, 2002.75, 2002.875]


def test_while_a_trial_runs_its_losses_grow(run: Path) -> None:
    path = run / "trial_00005" / LOSSES_FILE
    write_losses(path, 3, rows_of(5, 1, 3))
    with path.open("ab") as file:
        file.write(b"half a row")
    table = load_losses(run)
    assert table[table["trial"] == 5]["disc_fake"].tolist() == [5001.875, 5002.875, 5003.875]


def test_only_the_trials_that_were_asked_for(run: Path) -> None:
    whole = load_losses(run)
    some = load_losses(run, [5, 0, 1, 99])
    assert some["trial"].unique().tolist() == [0, 5]
    expected = whole[whole["trial"] != 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, expected)
    assert load_losses(run, []).empty


def test_losses_that_are_no_numbers_stay_what_they_are(run: Path) -> None:
    rows = np.array([[np.nan, np.inf, -np.inf, 0.5]], dtype=np.float32)
    write_losses(run / "trial_00005" / LOSSES_FILE, 1, rows)
    table = load_losses(run, [5])
    assert np.array_equal(table[COLUMNS[2:]].to_numpy(), rows, equal_nan=True)


def test_one_training_is_trial_0(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("dataset: circle\n")
    write_losses(tmp_path / LOSSES_FILE, 2, rows_of(0, 0, 2))
    table = load_losses(tmp_path)
    assert table[["trial", "iteration", "disc_real"]].to_numpy().tolist() == [
        [0, 1, 1.75],
        [0, 2, 2.75],
    ]


def test_runs_of_earlier_versions_have_no_rows_but_all_columns(tmp_path: Path) -> None:
    for run in (write_run(tmp_path / "run", TRIALS), _OF_0_1_0):
        table = load_losses(run)
        assert table.empty
        assert list(table.columns) == COLUMNS
        assert [str(kind) for kind in table.dtypes] == ["int64"] * 2 + ["float32"] * 4
        with pytest.raises(RunFolderError, match="an earlier version trained it"):
            require_losses(run, table)


def test_before_the_first_report_it_says_to_wait(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [("pending", [], "")])
    with pytest.raises(RunFolderError, match="run has no losses: nothing has reported"):
        require_losses(run, load_losses(run))
    training = tmp_path / "training"
    training.mkdir()
    (training / "config.yaml").write_text("dataset: circle\n")
    with pytest.raises(RunFolderError, match="training has no losses: nothing has reported"):
        require_losses(training, load_losses(training))
    append_line(training / "metrics.jsonl", {"iteration": 1, "fid_proxy": 2.0})
    with pytest.raises(RunFolderError, match=r"training has no losses\.f32: an earlier version"):
        require_losses(training, load_losses(training))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"it holds no sweep\.yaml"):
        load_losses(tmp_path)


def test_a_file_that_cannot_be_read_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("tune_gan.losses_file.np.fromfile", fail)
    with pytest.raises(StorageError, match=r"trial_00000/losses\.f32 cannot be read"):
        load_losses(run)


def _bands(gen_losses: list[float], num_bins: int) -> pd.DataFrame:
    losses = pd.DataFrame(
        {
            "trial": 3,
            "iteration": np.arange(1, len(gen_losses) + 1),
            "gen_loss": np.array(gen_losses, dtype=np.float32),
            "disc_loss": np.float32(0.5),
        }
    )
    return loss_bands(losses, num_bins)


def test_bands_are_means_and_percentiles_of_stretches() -> None:
    bands = _bands([*map(float, range(22))], num_bins=2)
    assert bands[["trial", "first", "last"]].to_numpy().tolist() == [[3, 1, 11]] * 2 + [[3, 12, 22]] * 2
    assert bands["loss"].tolist() == ["gen_loss", "disc_loss"] * 2
    generator = bands[bands["loss"] == "gen_loss"]
    # Of 0 to 10 the 10th percentile is 1, the 90th 9.
    assert generator["mean"].tolist() == [5.0, 16.0]
    assert generator["low"].tolist() == [1.0, 12.0]
    assert generator["high"].tolist() == [9.0, 20.0]


def test_the_last_stretch_may_be_shorter() -> None:
    generator = _bands([1.0, 2.0, 3.0, 4.0, 5.0], num_bins=3).query("loss == 'gen_loss'")
    assert generator[["first", "last"]].to_numpy().tolist() == [[1, 2], [3, 4], [5, 5]]
    assert generator["mean"].tolist() == [1.5, 3.5, 5.0]
    assert (generator["low"].iloc[-1], generator["high"].iloc[-1]) == (5.0, 5.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_leaves_a_gap(value: float) -> None:
    bands = _bands([1.0, 2.0, 3.0, value, 5.0, 6.0], num_bins=3)
    gaps = bands[["mean", "low", "high"]].isna()
    assert gaps.all(axis=1).tolist() == [False, False, True, False, False, False]
    assert gaps.any(axis=1).tolist() == gaps.all(axis=1).tolist()


def test_trials_have_stretches_of_their_own() -> None:
    losses = pd.concat(
        [
            pd.DataFrame(
                {
                    "trial": trial,
                    "iteration": np.arange(1, length + 1),
                    "gen_loss": np.float32(trial),
                    "disc_loss": np.float32(0),
                }
            )
            for trial, length in ((1, 4), (6, 2))
        ]
    )
    bands = loss_bands(losses, 2).query("loss == 'gen_loss'")
    assert bands[["trial", "first", "last", "mean"]].to_numpy().tolist() == [
        [1, 1, 2, 1],
        [1, 3, 4, 1],
        [6, 1, 1, 6],
        [6, 2, 2, 6],
    ]


def _printed(run: Path, form: Format, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_losses(run, form)
    return capsys.readouterr().out.splitlines()


def test_files_have_every_row(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_losses(run / "trial_00005" / LOSSES_FILE, 1, np.array([[np.nan, 0.1, 3e-7, -2]], np.float32))
    assert _printed(run, Format.CSV, capsys) == [
        "trial,iteration,gen_loss,disc_loss,disc_real,disc_fake",
        "0,1,1.25,1.5,1.75,1.875",
        "0,2,2.25,2.5,2.75,2.875",
        "0,3,3.25,3.5,3.75,3.875",
        "2,1,2001.25,2001.5,2001.75,2001.875",
        "2,2,2002.25,2002.5,2002.75,2002.875",
        "5,1,,0.1,3e-07,-2.0",
    ]
    values = json.loads("".join(_printed(run, Format.JSON, capsys)))
    assert [value["gen_loss"] for value in values] == [1.25, 2.25, 3.25, 2001.25, 2002.25, None]
    assert len(_printed(run, Format.MARKDOWN, capsys)) == 8


def test_a_table_shows_twenty_iterations_of_a_trial_at_most_and_its_last(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_losses(run / "trial_00005" / LOSSES_FILE, 399, rows_of(5, 0, 399))
    *rows, empty, note = _printed(run, Format.TABLE, capsys)
    shown = [list(map(int, row.split()[:2])) for row in rows[1:]]
    assert shown == [[0, 3], [2, 2], *([5, 20 * i] for i in range(1, 20)), [5, 399]]
    assert empty == ""
    assert note == (
        "every 20 iterations and at a trial's last one; all 404 rows: "
        "--format csv, parquet, json or markdown"
    )


def test_a_table_of_many_trials_has_fewer_rows_of_each(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_gan.results.answers._MOST_ROWS", 6)
    *rows, _, note = _printed(run, Format.TABLE, capsys)
    shown = [list(map(int, row.split()[:2])) for row in rows[1:]]
    assert shown == [[0, 2], [0, 3], [2, 2], [5, 1]]
    assert note.startswith("every 2 iterations")


def test_a_short_run_is_a_table_as_a_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_losses(run / "trial_00005" / LOSSES_FILE, 20, rows_of(5, 0, 20))
    lines = _printed(run, Format.TABLE, capsys)
    assert len(lines) == 26
    assert lines[-1].split() == ["5", "20", "5020", "5020", "5021", "5021"]

"""What is written of a trial's reports, without Ray."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import LANE_SWEEP
from tune_gan.errors import StorageError
from tune_gan.gan.checkpoint import Snapshot, read_progress
from tune_gan.gan.training import iterate
from tune_gan.losses_file import read_losses
from tune_gan.results.trials import read_reports
from tune_gan.search.spec import SweepSpec
from tune_gan.search.trainable import opened_trial

SPEC = SweepSpec.parse(LANE_SWEEP)


def test_a_report_is_written_by_what_take_returns_and_not_before(tmp_path: Path) -> None:
    losses, lines = [], list[dict[str, Any]]()
    folder = tmp_path / "trial_00000"
    with opened_trial(tmp_path, 0, {"gen_lr": 0.01}, SPEC) as trial:
        for report in iterate(trial.config):
            line, write = trial.take(replace(report, note="launched step by step"))
            assert read_reports(folder / "result.json") == lines
            write()
            losses.append(report.losses)
            lines.append(line)
            assert read_reports(folder / "result.json") == lines
            assert len(read_losses(folder / "losses.f32")) == line["iteration"]
            assert read_progress(folder / "checkpoint").iteration == line["iteration"]
    assert np.array_equal(read_losses(folder / "losses.f32"), np.concatenate(losses))
    # A note is told once.
    assert [line["cause"] for line in lines] == ["launched step by step", "", "", ""]
    assert [line["precision"] for line in lines] == ["fp32"] * 4


def test_what_a_kill_leaves_of_a_report_is_made_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(snapshot: Snapshot, folder: Path) -> None:
        raise StorageError("killed before its checkpoint")

    with opened_trial(tmp_path, 0, {"gen_lr": 0.01}, SPEC) as trial:
        reports = iterate(trial.config)
        trial.take(next(reports))[1]()
        line, write = trial.take(next(reports))
        with monkeypatch.context() as patch:
            patch.setattr(Snapshot, "write", killed)
            with pytest.raises(StorageError):
                write()
    folder = tmp_path / "trial_00000"
    assert len(read_losses(folder / "losses.f32")) == line["iteration"] == 100
    with opened_trial(tmp_path, 0, {"gen_lr": 0.01}, SPEC) as trial:
        assert trial.told["iteration"] == 50
        assert len(read_losses(folder / "losses.f32")) == 50
        for report in iterate(trial.config, trial.checkpoint):
            trial.take(report)[1]()
    assert len(read_losses(folder / "losses.f32")) == 200
    assert [r["iteration"] for r in read_reports(folder / "result.json")] == [50, 100, 150, 200]
    whole = np.concatenate([report.losses for report in iterate(trial.config)])
    assert np.array_equal(read_losses(folder / "losses.f32"), whole)

from pathlib import Path

import pytest
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tune_gan import train
from tune_gan.config import GanConfig
from tune_gan.gan.album import grid_files
from tune_gan.gan.training import Report

DIGITS = GanConfig(
    dataset="digits", gen_hidden=(16,), disc_hidden=(16,), num_iterations=6, report_every=2
)


def _events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


@pytest.mark.parametrize("dataset", ["digits", "circle"])
def test_a_grid_at_the_start_and_at_every_report_and_a_gif_of_them(
    dataset: str, tiny_ring: GanConfig, tmp_path: Path
) -> None:
    config = DIGITS if dataset == "digits" else tiny_ring
    train(config, tmp_path / "run")
    names = [f"iteration_{iteration:07d}.png" for iteration in (0, 2, 4, 6)]
    assert [file.name for file in grid_files(tmp_path / "run")] == names
    pictures = {file.read_bytes() for file in grid_files(tmp_path / "run")}
    assert len(pictures) == 4
    with Image.open(tmp_path / "run" / "training.gif") as gif:
        assert len(list(ImageSequence.Iterator(gif))) == 4


def test_tensorboard_shows_real_and_fake_under_one_tag(tmp_path: Path) -> None:
    train(DIGITS, tmp_path / "run")
    for run in ("real", "fake"):
        events = _events(tmp_path / "run" / run)
        assert events.Tags()["images"] == ["samples"]
        assert [event.step for event in events.Images("samples")] == [0, 2, 4, 6]
    real = [
        event.encoded_image_string for event in _events(tmp_path / "run" / "real").Images("samples")
    ]
    fake = [
        event.encoded_image_string for event in _events(tmp_path / "run" / "fake").Images("samples")
    ]
    assert len(set(real)) == 1
    assert len(set(fake)) == 4


def test_tensorboard_shows_hyperparameters_with_the_best_and_the_last_score(tmp_path: Path) -> None:
    result = train(DIGITS, tmp_path / "run")
    events = _events(tmp_path / "run")
    for name, score in (("best", result.best_fid_proxy), ("last", result.fid_proxy)):
        (event,) = events.Scalars(f"hparam/{name}_fid_proxy")
        assert event.value == pytest.approx(score)
    tags = events.PluginTagToContent("hparams")
    content = plugin_data_pb2.HParamsPluginData.FromString(tags["_hparams_/session_start_info"])
    values = content.session_start_info.hparams
    assert set(values) == set(GanConfig.model_fields)
    assert values["gen_lr"].number_value == DIGITS.gen_lr
    assert values["optimizer"].string_value == "adam"
    assert values["gen_hidden"].string_value == "[16]"


def test_a_resumed_run_has_each_picture_once(tmp_path: Path) -> None:
    def interrupt(report: Report) -> None:
        if report.metrics["iteration"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(DIGITS, tmp_path / "run", on_report=interrupt)
    # A picture of a report whose checkpoint was never written.
    later = tmp_path / "run" / "grids" / "iteration_0000005.png"
    grid_files(tmp_path / "run")[-1].rename(later)
    train(DIGITS, tmp_path / "run", resume=True)
    assert not later.exists()
    whole = train(DIGITS, tmp_path / "whole").folder
    for run in ("real", "fake"):
        steps = [event.step for event in _events(tmp_path / "run" / run).Images("samples")]
        assert steps == [0, 2, 4, 6]
    names = {"iteration_0000000.png", "iteration_0000002.png", "iteration_0000006.png"}
    got = {file.name: file.read_bytes() for file in grid_files(tmp_path / "run")}
    assert set(got) == names
    assert all((whole / "grids" / name).read_bytes() == got[name] for name in names)

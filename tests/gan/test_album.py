import json
from pathlib import Path

import pytest
from PIL import Image, ImageSequence
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tests.gan.test_loss_scalars import expected, points_of, rows_of
from tune_gan import train
from tune_gan.config import GanConfig
from tune_gan.gan.album import Album
from tune_gan.gan.checkpoint import FILE_NAME, Snapshot
from tune_gan.gan.data import load_data
from tune_gan.gan.models import build_generator
from tune_gan.gan.pictures import picture
from tune_gan.gan.scoring import generate
from tune_gan.gan.training import iterate
from tune_gan.grids import grid_files
from tune_gan.losses_file import LOSSES_FILE, write_losses
from tune_gan.metrics.score import score_latents

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
    for run, steps in (("real", [0]), ("fake", [0, 2, 4, 6])):
        events = _events(tmp_path / "run" / run)
        assert events.Tags()["images"] == ["samples"]
        shown = events.Images("samples")
        assert [event.step for event in shown] == steps
        assert len({event.encoded_image_string for event in shown}) == len(steps)


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


def test_tensorboard_has_the_losses_of_every_iteration_once(
    tiny_ring: GanConfig, tmp_path: Path
) -> None:
    reports, data = list(iterate(tiny_ring)), load_data(tiny_ring)
    write_losses(tmp_path / LOSSES_FILE, 6, rows_of(0, 6))
    with Album(tmp_path, tiny_ring, data, resumed_at=0) as album:
        album.add_report(reports[0], album.samples_of(reports[0].training.generator))
        album.add_report(reports[1], album.samples_of(reports[1].training.generator))
        assert points_of(tmp_path) == expected([1, 2, 3, 4])
    # As after a kill before the checkpoint of iteration 4.
    with Album(tmp_path, tiny_ring, data, resumed_at=2) as album:
        album.add_report(reports[1], album.samples_of(reports[1].training.generator))
        assert points_of(tmp_path) == expected([1, 2, 3, 4])
        album.add_report(reports[2], album.samples_of(reports[2].training.generator))
    assert points_of(tmp_path) == expected([1, 2, 3, 4, 5, 6])


def test_a_resumed_run_has_each_picture_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Snapshot.write

    def interrupted(snapshot: Snapshot, folder: Path) -> None:
        if json.loads(snapshot.progress)["iteration"] == 4:
            raise KeyboardInterrupt
        write(snapshot, folder)

    # The report of iteration 4 is written and drawn, its checkpoint is not.
    monkeypatch.setattr(Snapshot, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(DIGITS, tmp_path / "run")
    monkeypatch.undo()
    assert grid_files(tmp_path / "run")[-1].name == "iteration_0000004.png"
    (tmp_path / "run" / "grids" / "iteration_0000004.png").rename(
        later := tmp_path / "run" / "grids" / "iteration_0000005.png"
    )
    train(DIGITS, tmp_path / "run", resume=True)
    assert not later.exists()
    whole = train(DIGITS, tmp_path / "whole").folder
    for run, steps in (("real", [0]), ("fake", [0, 2, 4, 6])):
        shown = _events(tmp_path / "run" / run).Images("samples")
        assert [event.step for event in shown] == steps
    scalars = [event.step for event in _events(tmp_path / "run").Scalars("fid_proxy")]
    assert scalars == [2, 4, 6]
    names = {f"iteration_000000{iteration}.png" for iteration in (0, 2, 4, 6)}
    got = {file.name: file.read_bytes() for file in grid_files(tmp_path / "run")}
    assert set(got) == names
    assert all((whole / "grids" / name).read_bytes() == got[name] for name in names)


def test_grids_show_the_moving_average(tmp_path: Path) -> None:
    config = DIGITS.model_copy(update={"ema_decay": 0.9})
    train(config, tmp_path / "run")
    tensors = load_file(tmp_path / "run" / "checkpoint" / FILE_NAME)
    for prefix, same in (("average.module.", True), ("generator.", False)):
        generator = build_generator(config)
        names = generator.state_dict()
        generator.load_state_dict({name: tensors[prefix + name] for name in names})
        drawn = picture(generate(generator, score_latents(config.latent_dim)[:25]), side=320)
        with Image.open(grid_files(tmp_path / "run")[-1]) as grid:
            assert (grid.tobytes() == drawn.tobytes()) is same


def test_pictures_that_others_left_or_took_do_not_stop_the_end_of_a_run(tmp_path: Path) -> None:
    folder = train(DIGITS, tmp_path / "run").folder
    (folder / "grids" / "iteration_copy.png").write_text("mine")
    (folder / "grids" / "iteration_0000002.png").write_bytes(b"")
    (folder / "grids" / "iteration_0000000.png").unlink()
    (folder / "result.json").unlink()
    train(DIGITS, folder, resume=True)
    with Image.open(folder / "training.gif") as gif:
        # The untrained one is drawn again; the empty one is left out.
        assert len(list(ImageSequence.Iterator(gif))) == 3
    assert (folder / "grids" / "iteration_copy.png").read_text() == "mine"

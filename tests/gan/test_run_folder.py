import json
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tune_gan import train
from tune_gan.config import GanConfig
from tune_gan.errors import RunFolderError
from tune_gan.gan.run_folder import default_folder
from tune_gan.gan.training import Report
from tune_gan.metrics.score import WORST_SCORE


def _lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_training_writes_its_folder(tiny_ring: GanConfig, tmp_path: Path) -> None:
    folder = tmp_path / "a 'run'"
    result = train(tiny_ring, folder)
    assert GanConfig.from_yaml(folder / "config.yaml") == tiny_ring
    lines = _lines(folder)
    assert [line["iteration"] for line in lines] == [2, 4, 6]
    assert result.state == "completed"
    assert result.best_fid_proxy == lines[-1]["best_fid_proxy"]
    assert lines[result.best_iteration // 2 - 1]["fid_proxy"] == result.best_fid_proxy
    assert json.loads((folder / "result.json").read_text())["iteration"] == 6
    with Image.open(folder / "samples.png") as picture:
        assert min(picture.size) >= 600
    events = EventAccumulator(str(folder)).Reload()
    assert {"gen_loss", "disc_loss", "fid_proxy"} <= set(events.Tags()["scalars"])
    assert result.untrained_fid_proxy > 0


def test_the_default_folder_says_the_hyperparameters() -> None:
    assert default_folder(GanConfig()).name.startswith("mlp-mnist-2")
    values = {"optimizer": "SGD", "gen_hidden": [256, 512], "disc_lr": 1e-5, "device": "cpu"}
    name = default_folder(GanConfig.parse({**values, "dataset": "digits"})).name
    assert name.startswith("mlp-digits-gen_hidden_256x512-optimizer_sgd-disc_lr_1e-05-2")
    many = dict.fromkeys(("dropout", "beta1", "beta2", "gen_lr", "disc_lr", "ema_decay"), 0.123456789)
    widths = {"gen_hidden": [1000] * 16, "disc_hidden": [1000] * 16}
    assert len(default_folder(GanConfig.parse({**many, **widths})).name) < 220


def test_others_may_read_what_a_training_writes(tiny_ring: GanConfig, tmp_path: Path) -> None:
    train(tiny_ring, tmp_path / "run")
    expected = (tmp_path / "run" / "config.yaml").stat().st_mode
    for file in ("checkpoint/state.safetensors", "grids/iteration_0000000.png", "result.json"):
        assert (tmp_path / "run" / file).stat().st_mode == expected


def test_a_training_does_not_write_into_a_folder_that_exists(
    tiny_ring: GanConfig, tmp_path: Path
) -> None:
    with pytest.raises(RunFolderError, match="exists already"):
        train(tiny_ring, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_training_goes_on_as_if_nothing_had_been(
    tiny_ring: GanConfig, tmp_path: Path
) -> None:
    def interrupt(report: Report) -> None:
        if report.metrics["iteration"] == 4:
            raise KeyboardInterrupt

    train(tiny_ring, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_ring, tmp_path / "stopped", on_report=interrupt)
    # A report of which no checkpoint was written, and one that was cut.
    with (tmp_path / "stopped" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 6, "fid_proxy": 0.0}\n{"iterat')
    resumed = train(tiny_ring, tmp_path / "stopped", resume=True)
    assert resumed.iteration == 6
    for one, other in zip(_lines(tmp_path / "whole"), _lines(tmp_path / "stopped"), strict=True):
        assert all(one[name] == other[name] for name in one if not name.endswith("_s"))
    samples = [(tmp_path / name / "samples.png").read_bytes() for name in ("whole", "stopped")]
    assert samples[0] == samples[1]


@pytest.mark.parametrize("folder_made", [False, True])
def test_a_training_killed_before_its_first_checkpoint_starts_again(
    tiny_ring: GanConfig, tmp_path: Path, folder_made: bool
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(tiny_ring, whole)
    killed.mkdir()
    (killed / "config.yaml").write_text(tiny_ring.to_yaml())
    (killed / "metrics.jsonl").write_text((whole / "metrics.jsonl").read_text().splitlines()[0] + "\n")
    if folder_made:
        (killed / "checkpoint").mkdir()
    assert train(tiny_ring, killed, resume=True).iteration == 6
    assert [line["iteration"] for line in _lines(killed)] == [2, 4, 6]


def test_a_training_that_lacked_only_its_result_is_concluded(
    tiny_ring: GanConfig, tmp_path: Path
) -> None:
    whole = train(tiny_ring, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    assert train(tiny_ring, tmp_path / "run", resume=True) == whole


def test_a_complete_training_is_not_resumed(tiny_ring: GanConfig, tmp_path: Path) -> None:
    train(tiny_ring, tmp_path / "run")
    with pytest.raises(RunFolderError, match="is complete"):
        train(tiny_ring, tmp_path / "run", resume=True)


def test_a_diverged_training_says_so(tiny_ring: GanConfig, tmp_path: Path) -> None:
    values = {"optimizer": "sgd", "gen_lr": 1.0, "disc_lr": 1.0, "loss": "least_squares"}
    config = tiny_ring.model_copy(update={**values, "num_iterations": 500})
    result = train(config, tmp_path / "run")
    assert result.state == "diverged"
    assert result.cause
    assert _lines(tmp_path / "run")[-1]["fid_proxy"] == WORST_SCORE
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_diverged_training_is_not_trained_on_when_resumed(
    tiny_ring: GanConfig, tmp_path: Path
) -> None:
    values = {"optimizer": "sgd", "gen_lr": 1.0, "disc_lr": 1.0, "loss": "least_squares"}
    config = tiny_ring.model_copy(update={**values, "num_iterations": 500})
    whole = train(config, tmp_path / "run")
    # Killed after the last checkpoint.
    (tmp_path / "run" / "result.json").unlink()
    assert train(config, tmp_path / "run", resume=True) == whole


def test_places_are_written_down_whole(
    tmp_path: Path, mnist_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a run can go on from another folder than it was started in."""
    (tmp_path / "data").symlink_to(mnist_root)
    monkeypatch.chdir(tmp_path)
    values = {"num_iterations": 1, "report_every": 1, "gen_hidden": 4, "disc_hidden": 4}
    train(GanConfig.parse({**values, "data_root": "data"}), Path("run"))
    assert GanConfig.from_yaml(Path("run/config.yaml")).data_root == str(tmp_path / "data")

import json
import math
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tune_gan import train
from tune_gan.config import GanConfig
from tune_gan.errors import CheckpointError, ConfigError
from tune_gan.gan.checkpoint import FILE_NAME
from tune_gan.gan.sampling import load_generator, sample, save_samples
from tune_gan.gan.scoring import generate

DIGITS = GanConfig(
    dataset="digits",
    gen_hidden=(16,),
    disc_hidden=(16,),
    latent_dim=4,
    num_iterations=2,
    report_every=1,
    ema_decay=0.5,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(DIGITS, tmp_path_factory.mktemp("sampling") / "run").folder


def test_samples_are_seeded(run: Path) -> None:
    samples = sample(run, 70, seed=1)
    assert samples.shape == (70, 1, 8, 8)
    assert samples.dtype == torch.uint8
    assert torch.equal(sample(run, 70, seed=1), samples)
    assert not torch.equal(sample(run, 70, seed=2), samples)


def test_a_checkpoint_is_named_by_its_file_its_folder_or_its_training(run: Path) -> None:
    expected = sample(run, 3, seed=0)
    for place in (run / "checkpoint", run / "checkpoint" / FILE_NAME):
        assert torch.equal(sample(place, 3, seed=0), expected)


def test_the_best_generator_is_the_average(run: Path) -> None:
    config, generator = load_generator(run)
    assert config == DIGITS.model_copy(update={"precision": "fp32"})
    tensors = load_file(run / "checkpoint" / FILE_NAME)
    for name, weight in generator.state_dict().items():
        assert torch.equal(weight, tensors[f"best_generator.{name}"])
        assert f"average.module.{name}" in tensors
    assert generate(generator, torch.zeros(1, 4)).shape == (1, 1, 8, 8)


def test_a_picture_and_numbers(run: Path, tmp_path: Path) -> None:
    files = save_samples(
        run, 9, 0, picture_file=tmp_path / "grid.png", npz_file=tmp_path / "samples.npz"
    )
    assert files == [tmp_path / "grid.png", tmp_path / "samples.npz"]
    with Image.open(files[0]) as picture:
        assert min(picture.size) > 600
    array = np.load(files[1])["arr_0"]
    assert array.shape == (9, 8, 8, 1)
    assert array.dtype == np.uint8
    assert np.array_equal(array[..., 0], sample(run, 9, seed=0)[:, 0].numpy())


def test_points_are_numbers_of_two_columns(tiny_ring: GanConfig, tmp_path: Path) -> None:
    train(tiny_ring, tmp_path / "run")
    save_samples(tmp_path / "run", 5, 0, npz_file=tmp_path / "points.npz")
    array = np.load(tmp_path / "points.npz")["arr_0"]
    assert array.shape == (5, 2)
    assert array.dtype == np.float32


def test_numbers_go_where_a_link_leads_and_into_a_device(run: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.npz"
    link.symlink_to(tmp_path / "there.npz")
    save_samples(run, 9, 0, npz_file=link)
    assert np.load(tmp_path / "there.npz")["arr_0"].shape == (9, 8, 8, 1)
    # Which says of every place in it that it is the first.
    save_samples(run, 9, 0, npz_file=Path(os.devnull))
    assert Path(os.devnull).is_char_device()


def test_where_no_checkpoint_is(run: Path, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing", run / "config.yaml"):
        with pytest.raises(CheckpointError, match=r"no checkpoint at .*state\.safetensors"):
            sample(place, 1, seed=0)


def _changed(
    run: Path, folder: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]
) -> Path:
    """A copy of a checkpoint whose progress and tensors a function has changed."""
    with safe_open(run / "checkpoint" / FILE_NAME, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
    tensors = load_file(run / "checkpoint" / FILE_NAME)
    text = change(progress, tensors)
    metadata = {"progress": text if isinstance(text, str) else json.dumps(progress)}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / FILE_NAME, metadata=metadata)
    return folder


HOSTILE: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], object]] = {
    "brackets": lambda progress, tensors: "[" * 200_000,
    "infinite": lambda progress, tensors: progress.update(iteration=math.inf),
    "history": lambda progress, tensors: progress.update(history=[[math.inf, 1]]),
    # 17 GB for one layer, if it were made before it is compared with what is there.
    "huge": lambda progress, tensors: progress["config"].update(gen_hidden=[65536, 65536]),
    "field": lambda progress, tensors: progress["config"].update(nothing=1),
    "value": lambda progress, tensors: progress["config"].update(latent_dim=0),
    "shape": lambda progress, tensors: tensors.update(
        {"best_generator.layers.0.weight": torch.zeros(2, 2)}
    ),
    "kind": lambda progress, tensors: tensors.update(
        {"best_generator.layers.0.weight": torch.zeros(16, 4, dtype=torch.int64)}
    ),
    "absent": lambda progress, tensors: tensors.pop("best_generator.layers.0.weight"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_checkpoint_made_to_do_harm_is_refused(kind: str, run: Path, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = _changed(run, tmp_path / "bad", HOSTILE[kind])
    with pytest.raises(CheckpointError, match=r"bad/state\.safetensors is damaged"):
        sample(folder, 1, seed=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000


def test_an_unchanged_copy_is_taken(run: Path, tmp_path: Path) -> None:
    folder = _changed(run, tmp_path / "good", lambda progress, tensors: None)
    assert torch.equal(sample(folder, 2, seed=0), sample(run, 2, seed=0))


def test_a_picture_of_no_known_ending(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"grid\.xyz: a picture's name ends in \.png"):
        save_samples(run, 1, 0, picture_file=Path("grid.xyz"))

"""A folder whose subfolders are classes: scored in the features of a classifier of its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from tune_gan import train
from tune_gan.config import GanConfig
from tune_gan.errors import CheckpointError, ConfigError, DataError
from tune_gan.gan.data import load_data, load_dataset
from tune_gan.gan.evaluation import evaluate
from tune_gan.gan.scoring import load_scorer, scorer_of, with_features
from tune_gan.gan.training import iterate
from tune_gan.metrics.classifier import load_classifier
from tune_gan.places import FEATURES_FILE, features_near


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 8x8 digits and their mirror images, 3,594 files in a subfolder for each of ten classes."""
    digits, folder = load_dataset("digits", Path()), tmp_path_factory.mktemp("labelled") / "images"
    assert digits.train_labels is not None
    assert digits.held_out_labels is not None
    pictures = torch.cat([digits.train, digits.held_out])[:, 0]
    labels = torch.cat([digits.train_labels, digits.held_out_labels]).tolist()
    for name in map(str, range(10)):
        (folder / name).mkdir(parents=True)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        Image.fromarray(picture.numpy()).save(folder / str(label) / f"{number}.png")
        Image.fromarray(picture.flip(0).numpy()).save(folder / str(label) / f"{number}-flipped.png")
    return folder


@pytest.fixture
def config(images: Path) -> GanConfig:
    return GanConfig.parse(
        {
            "dataset": "folder",
            "data_root": str(images),
            "labelled": True,
            "image_size": 8,
            "gen_hidden": [16],
            "disc_hidden": [16],
            "num_iterations": 2,
            "report_every": 1,
        }
    )


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training, whose classifier took some seconds."""
    folder = tmp_path_factory.mktemp("labelled-run") / "run"
    values = {"dataset": "folder", "data_root": str(images), "labelled": True, "image_size": 8}
    small = {"gen_hidden": [16], "disc_hidden": [16], "num_iterations": 2, "report_every": 1}
    train(GanConfig.parse({**values, **small}), folder)
    return folder


def test_classes_are_the_subfolders(config: GanConfig) -> None:
    data = load_data(config)
    assert data.train_labels is not None
    assert data.held_out_labels is not None
    assert (len(data.train_labels), len(data.held_out_labels)) == (len(data.train), 2000)
    # The class of an image is that of the same digit in scikit-learn's own order.
    digits = load_dataset("digits", Path())
    assert digits.train_labels is not None
    known = {
        image.numpy().tobytes(): int(n)
        for image, n in zip(digits.train, digits.train_labels, strict=True)
    }
    found = [
        (known[image[:1].numpy().tobytes()], int(label))
        for image, label in zip(data.held_out, data.held_out_labels, strict=True)
        if image[:1].numpy().tobytes() in known
    ]
    assert len(found) > 500
    assert all(expected == label for expected, label in found)


def test_a_training_makes_its_classifier_and_records_it(trained: Path) -> None:
    config = GanConfig.from_yaml(trained / "config.yaml")
    assert config.weights == str(trained / FEATURES_FILE)
    with safe_open(trained / FEATURES_FILE, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about["held_out_accuracy"] > 0.9
    assert about["recipe"]["optimizer"] == "Adam"
    result = json.loads((trained / "result.json").read_text())
    name = result["instrument"].partition(",")[0]
    assert name.startswith("folder-")
    assert "-lenet-v1-" in name
    report = json.loads((trained / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 <= report["class_entropy"] <= 1.1


def test_real_images_score_well_in_its_features(trained: Path) -> None:
    config = GanConfig.from_yaml(trained / "config.yaml")
    score = scorer_of(config).score(load_data(config).train)
    assert score["fid_proxy"] < 1
    assert score["class_entropy"] == pytest.approx(1, abs=0.02)
    assert not score["degenerate"]


def test_a_given_classifier_is_taken_as_it_is(trained: Path, config: GanConfig, tmp_path: Path) -> None:
    given = config.model_copy(update={"weights": str(trained / FEATURES_FILE)})
    assert with_features(given, tmp_path) == given
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_moved_has_its_classifier_with_it(trained: Path, tmp_path: Path) -> None:
    config = GanConfig.from_yaml(trained / "config.yaml")
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    assert with_features(config, moved).weights == str(moved / FEATURES_FILE)
    trained.rename(tmp_path / "gone")
    try:
        (coverage,) = evaluate(moved, ["coverage"], 100)
    finally:
        (tmp_path / "gone").rename(trained)
    assert coverage.instrument.startswith("folder-")


def test_a_run_s_classifier_is_found_from_all_that_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "run" / "confirm" / "trial_00003" / "checkpoint").mkdir(parents=True)
    assert features_near(tmp_path / "run") is None
    (tmp_path / FEATURES_FILE).touch()
    assert features_near(tmp_path / "run" / "confirm" / "trial_00003" / "checkpoint") is None
    file = tmp_path / "run" / FEATURES_FILE
    file.touch()
    for part in ("", "confirm", "confirm/trial_00003", "confirm/trial_00003/checkpoint"):
        assert features_near(tmp_path / "run" / part) == file


def test_a_checkpoint_of_another_classifier_is_refused(trained: Path, tmp_path: Path) -> None:
    config = GanConfig.from_yaml(trained / "config.yaml")
    other = load_classifier(trained / FEATURES_FILE).state_dict()
    other["classify.bias"] = other["classify.bias"] + 1
    save_file(other, tmp_path / "other.safetensors")
    changed = config.model_copy(update={"weights": str(tmp_path / "other.safetensors")})
    with pytest.raises(CheckpointError, match="do not compare"):
        next(iterate(changed.model_copy(update={"num_iterations": 4}), trained / "checkpoint"))


@pytest.mark.parametrize("content", [b"", b"no weights", "images", "others"])
def test_what_is_no_classifier_is_one_clear_error(
    content: bytes | str, trained: Path, config: GanConfig, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        state = load_classifier(trained / FEATURES_FILE).state_dict()
        if content == "images":
            state["convolutions.0.weight"] = state["convolutions.0.weight"][:, :1].clone()
        else:
            state = {"a": torch.zeros(2)}
            save_file(state, path)
    load_scorer.cache_clear()
    with pytest.raises(DataError) as caught:
        scorer_of(config.model_copy(update={"weights": str(path)}))
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)


def test_an_image_without_a_class(images: Path, config: GanConfig, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images")
    shutil.copy(images / "0" / next((images / "0").iterdir()).name, tmp_path / "images" / "loose.png")
    loose = config.model_copy(update={"data_root": str(tmp_path / "images")})
    with pytest.raises(DataError, match=r"loose\.png lies in no subfolder of .*leave out labelled"):
        load_data(loose)


def test_a_single_class(images: Path, config: GanConfig, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images" / "all")
    one = config.model_copy(update={"data_root": str(tmp_path / "images")})
    with pytest.raises(DataError, match="has a single subfolder with images"):
        load_data(one)


def test_labelled_goes_with_a_folder() -> None:
    with pytest.raises(ConfigError, match="labelled goes with dataset folder, not mnist; leave it out"):
        GanConfig.parse({"labelled": True})

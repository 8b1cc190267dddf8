"""What a configuration's samples are scored with, and scores of what was trained."""

import logging
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tune_gan.config import IMAGE_SIZE_OF_DATASET, GanConfig
from tune_gan.errors import DataError
from tune_gan.files import write_whole
from tune_gan.gan.checkpoint import TrainingState
from tune_gan.gan.data import (
    RING_NOISE,
    RING_RADIUS,
    BatchOrder,
    Dataset,
    load_data,
    load_dataset,
    resize,
    to_saved_form,
)
from tune_gan.gan.folder import list_folder
from tune_gan.gan.models import choose_device
from tune_gan.metrics.arithmetic import products
from tune_gan.metrics.classifier import (
    accuracy,
    digest_of,
    instrument_name,
    load_classifier,
    load_shipped,
    recipe,
    recipes,
    to_bytes,
    train_classifier,
)
from tune_gan.metrics.fourier import fourier_features
from tune_gan.metrics.imagenet import imagenet_features, load_mobilenet
from tune_gan.metrics.ring import ring_measures
from tune_gan.metrics.score import Instrument, Scorer, score_latents
from tune_gan.places import FEATURES_FILE, data_root, features_near

_log = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_DIGITS_OF_NAME = 8


def generate(generator: nn.Module, latents: Tensor) -> Tensor:
    """Generate samples as they would be saved: uint8 images ``(N, C, H, W)`` or points ``(N, 2)``.

    In full precision, whatever that of the training is.

    Args:
        generator: Put into evaluation mode for it, and back.
        latents: ``(N, latent_dim)``, on any device; the samples stay on the generator's.
    """
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    with torch.inference_mode(), products("ieee", device):
        chunks = [to_saved_form(generator(c.to(device))) for c in latents.split(500)]
    generator.train(was_training)
    return torch.cat(chunks)


def rescore(training: TrainingState, count: int, num_seeds: int) -> list[float]:
    """Score a run's best generator anew, on other latents than those that chose it.

    Args:
        training: The run.
        count: Samples of a score.
        num_seeds: How many scores, each with its own latents, the same for every run.

    Returns:
        A `fid_proxy` for each set of latents.
    """
    generator = deepcopy(training.scored_generator)
    generator.load_state_dict(training.best_generator)
    scorer = scorer_of(training.config)
    return [
        scorer.score(generate(generator, score_latents(training.config.latent_dim, count, seed)))[
            "fid_proxy"
        ]
        for seed in range(1, num_seeds + 1)
    ]


def score_of_real(config: GanConfig, count: int, num_draws: int) -> list[dict[str, float]]:
    """Score real training samples as if they were generated: what no generator gets below for long.

    Args:
        config: A configuration, whose data set and image size count.
        count: Samples of a score.
        num_draws: How many scores, each of other samples; one where the data set holds no more than
            `count`, which are one draw, however often.
    """
    real = resize(load_data(config).train, config.image_size)
    scorer = scorer_of(config)
    scores = []
    for seed in range(1, (num_draws if count < len(real) else 1) + 1):
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
        scores.append(scorer.score(real[order[:count]]))
    return scores


def floor_of(config: GanConfig, count: int, num_draws: int = 3) -> dict[str, Any]:
    """Return what real samples score, as far as the data set has so many.

    Returns:
        ``instrument``, its name; ``num_samples`` of each score, `count` or all that there are; and
        ``scores``, a `fid_proxy` for each draw.
    """
    count = min(count, len(load_data(config).train))
    scores = [score["fid_proxy"] for score in score_of_real(config, count, num_draws)]
    return {"instrument": scorer_of(config).name(count), "num_samples": count, "scores": scores}


def with_features(config: GanConfig, folder: Path) -> GanConfig:
    """Return a configuration that names the classifier which a labelled folder is scored with.

    That is ``features.safetensors`` of the run, wherever that lies now; where there is none, what the
    configuration names; and where it names none, one that is trained now and written there, with its
    recipe and its accuracy on the held-out images. Any other configuration comes back as it is.

    Args:
        config: The configuration.
        folder: As `features_near` takes it.

    Raises:
        DataError: if the folder of images cannot be loaded.
        StorageError: if the file cannot be written.
    """
    path = features_near(folder)
    if not config.labelled or (config.weights is not None and path is None):
        return config
    if path is None:
        path = (folder / FEATURES_FILE).absolute()
        data = load_data(config)
        assert data.train_labels is not None
        assert data.held_out_labels is not None
        _log.info("training a classifier on %s images for the score", f"{len(data.train):,}")
        network = train_classifier(data.train, data.train_labels)
        share = accuracy(network, data.held_out, data.held_out_labels)
        _log.info("it tells the class of %.1f %% of the held-out images", 100 * share)
        write_whole(path, to_bytes(network, {"recipe": recipe(), "held_out_accuracy": round(share, 4)}))
    return config.model_copy(update={"weights": str(path)})


def prepare(config: GanConfig) -> None:
    """Load what a run needs.

    To be called once, before the first of many runs; what is wrong is said before what takes long.

    Raises:
        DataError: if the data set or the weights of its feature network cannot be loaded, or a batch
            is larger than the data set.
    """
    if config.dataset == "folder":
        # What is missing is said before a hundred thousand images are decoded.
        list_folder(data_root(config.data_root))
        if not config.labelled:
            load_mobilenet(Path(config.weights) if config.weights else None)
    BatchOrder(len(load_data(config).train), config.batch_size, config.seed)
    scorer_of(config)


def scorer_of(config: GanConfig) -> Scorer:
    """Return what a configuration is scored with, made once a process.

    Sets torch's thread count, on which the sums in a score depend.

    Raises:
        DataError: if the data set or the weights of its feature network cannot be loaded.
    """
    torch.set_num_threads(config.num_threads)
    root = data_root(config.data_root)
    # Distances want double precision, which of the devices CUDA's alone have beside a CPU.
    device = choose_device(config.device)
    return load_scorer(
        config.dataset,
        root,
        config.image_size,
        weights=config.weights,
        labelled=config.labelled,
        device=device if device.type == "cuda" else _CPU,
    )


@lru_cache(maxsize=1)
def load_scorer(
    dataset: str,
    root: Path,
    image_size: int | None,
    *,
    weights: str | None = None,
    labelled: bool = False,
    device: torch.device = _CPU,
) -> Scorer:
    """Return the score of a data set.

    Labelled images are looked at by a classifier at the data set's own size. Real images go through
    `image_size` and back as generated ones do, so that what resizing takes away is missing on both
    sides. A folder's images are scored in ImageNet features where they have no labels.

    Args:
        dataset: The data set's name.
        root: Where its files lie, for MNIST, Fashion-MNIST and a folder.
        image_size: Height and width of the images to score; None for points.
        weights: File of the ImageNet network's weights, None for torchvision's cache; or, for a
            labelled folder, of its classifier.
        labelled: Whether the subfolders of a folder are classes.
        device: Where to score: a CPU or a GPU.

    Raises:
        DataError: if the data set or the weights cannot be loaded.
    """
    data = load_dataset(dataset, root, image_size, labelled)
    if dataset == "circle":
        instrument = Instrument(
            "circle-fourier-v1",
            fourier_features,
            measures=lambda points: ring_measures(points, RING_RADIUS, RING_NOISE),
        )
    elif labelled:
        assert weights is not None
        instrument = _own_instrument(data, Path(weights), device)
    elif dataset == "folder":
        instrument = _imagenet_instrument(data, weights, device)
    else:
        instrument = _shipped_instrument(data, image_size, device)
    return Scorer(instrument, resize(data.held_out, image_size), device)


def _shipped_instrument(data: Dataset, image_size: int | None, device: torch.device) -> Instrument:
    network, known = deepcopy(load_shipped(data.name)).to(device), recipes()[data.name]
    name = known["instrument"]
    if image_size != IMAGE_SIZE_OF_DATASET[data.name]:
        name += f"-{image_size}px"
    # Somebody's own images under a known name.
    if (digest := digest_of(data.held_out)) != known["held_out_sha256"]:
        name += f"-{digest[:_DIGITS_OF_NAME]}"
    return Instrument(name, network.features, network.classes)


def _own_instrument(data: Dataset, weights: Path, device: torch.device) -> Instrument:
    network = deepcopy(load_classifier(weights)).to(device)
    assert data.held_out_labels is not None
    num_classes = int(data.held_out_labels.max()) + 1
    if network.convolutions[0].in_channels != 3 or network.classify.out_features < num_classes:
        raise DataError(f"{weights} tells {network.classify.out_features} other classes of images")
    images, own = (digest_of(part)[:_DIGITS_OF_NAME] for part in (data.held_out, weights.read_bytes()))
    name = f"{instrument_name(f'folder-{images}')}-{own}"
    return Instrument(name, network.features, network.classes)


def _imagenet_instrument(data: Dataset, weights: str | None, device: torch.device) -> Instrument:
    network = load_mobilenet(Path(weights) if weights else None)
    values = torch.cat([value.flatten().float() for value in network.state_dict().values()])
    digests = (digest_of(part)[:_DIGITS_OF_NAME] for part in (data.held_out, values))
    name = "folder-{}-mobilenetv2-{}".format(*digests)
    # As published for ImageNet features: unscaled.
    return Instrument(name, imagenet_features(network.to(device)), scale=False)

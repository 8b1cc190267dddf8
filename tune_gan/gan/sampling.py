"""Draw samples from a trained generator's checkpoint."""

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tune_gan.config import GanConfig
from tune_gan.errors import CheckpointError, ConfigError
from tune_gan.gan.checkpoint import FILE_NAME, load_best_generator
from tune_gan.gan.data import load_dataset
from tune_gan.gan.models import build_generator
from tune_gan.gan.pictures import picture
from tune_gan.gan.scoring import generate
from tune_gan.gan.seeds import derive_seed
from tune_gan.metrics.score import score_latents

_NUM_SAMPLES = 64
_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def load_generator(checkpoint: Path) -> tuple[GanConfig, nn.Module]:
    """Load the best generator of a run, its moving average where the run kept one, on the CPU.

    Args:
        checkpoint: The folder of a checkpoint, the folder of a training or a trial that holds one, or
            the checkpoint's file.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    folder = _checkpoint_folder(checkpoint)
    config, weights = load_best_generator(folder)
    # Without memory until the weights are known to fit: a few bytes of a config may ask for gigabytes.
    with torch.device("meta"):
        generator = build_generator(config)
    if _shapes(generator.state_dict()) != _shapes(weights):
        raise CheckpointError(
            f"{folder / FILE_NAME} is damaged (its weights are of another network than its config)"
        )
    generator.load_state_dict(weights, assign=True)
    return config, generator


def _checkpoint_folder(place: Path) -> Path:
    if place.is_file() and place.name == FILE_NAME:
        return place.parent
    # A trial's folder has its checkpoints numbered, the last one last.
    for folder in (place, place / "checkpoint", *sorted(place.glob("checkpoint_*"), reverse=True)):
        if (folder / FILE_NAME).is_file():
            return folder
    raise CheckpointError(
        f"no checkpoint at {place}: give the folder of a training, a trial or a sweep, "
        f"or a {FILE_NAME} itself"
    )


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}


def sample(checkpoint: Path, num_samples: int, seed: int) -> Tensor:
    """Draw samples of a run's best generator.

    Args:
        checkpoint: As `load_generator` takes it.
        num_samples: How many.
        seed: Seed of the latents; the same seed gives the same samples.

    Returns:
        uint8 images ``(num_samples, C, H, W)`` or float32 points ``(num_samples, 2)``.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    config, generator = load_generator(checkpoint)
    source = torch.Generator().manual_seed(derive_seed(seed, "samples"))
    return generate(generator, torch.randn(num_samples, config.latent_dim, generator=source))


def save_samples(
    checkpoint: Path,
    num_samples: int,
    seed: int,
    *,
    picture_file: Path | None = None,
    npz_file: Path | None = None,
) -> list[Path]:
    """Write samples of a run's best generator as a picture, as numbers, or as both.

    Args:
        checkpoint: As `load_generator` takes it.
        num_samples: How many.
        seed: Seed of the latents.
        picture_file: Where to draw them, in a format that its ending names.
        npz_file: Where to write them as ``arr_0``: images uint8 ``(N, H, W, C)``, as evaluators of
            generators read them, points float32 ``(N, 2)``.

    Returns:
        The files written.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
        ConfigError: if the picture's ending names no format.
        OSError: if a file cannot be written.
    """
    if picture_file is not None and picture_file.suffix.lower() not in _PICTURE_ENDINGS:
        raise ConfigError(f"{picture_file}: a picture's name ends in {', '.join(_PICTURE_ENDINGS)}")
    samples = sample(checkpoint, num_samples, seed)
    if picture_file is not None:
        picture(samples).save(picture_file)
    if npz_file is not None:
        last_channel = samples if samples.dim() == 2 else samples.permute(0, 2, 3, 1)
        # Not into the file itself: an archive asks where it is in it, which a device cannot tell.
        packed = io.BytesIO()
        np.savez_compressed(packed, last_channel.numpy())
        npz_file.write_bytes(packed.getvalue())
    return [file for file in (picture_file, npz_file) if file is not None]


def save_best_samples(checkpoint: Path, path: Path) -> None:
    """Draw samples of a run's best generator, always from the same latents, into a PNG.

    64 images, or 2,000 points over as many real ones.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    config, generator = load_generator(checkpoint)
    latents = score_latents(config.latent_dim)
    if config.image_size is not None:
        picture(generate(generator, latents[:_NUM_SAMPLES])).save(path)
    else:
        real = load_dataset(config.dataset, Path()).held_out[: len(latents)]
        picture(generate(generator, latents), real).save(path)

"""Score a trained generator by the measures that are asked for: what ``tune-gan score`` runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.gan.data import load_data, resize
from tune_gan.gan.sampling import load_generator
from tune_gan.gan.scoring import generate, scorer_of, with_features
from tune_gan.metrics.classifier import digest_of
from tune_gan.metrics.inception import inception_distance, inception_weights
from tune_gan.metrics.score import score_latents
from tune_gan.settings import nearest

METRICS = (
    "fid_proxy",
    "kid",
    "coverage",
    "density",
    "distinct",
    "class_entropy",
    "spread",
    "radial_error",
    "sector_coverage",
    "fid",
)
# Latents that no report is scored with: those of the first score of a confirmation.
_LATENT_SEED = 1


@dataclass(frozen=True)
class Measurement:
    """A measure of a generator's samples.

    Attributes:
        metric: Its name, of `METRICS`.
        value: The measured value.
        standard_error: Over other draws of as many samples, where it is known.
        instrument: What it was measured with, and with how many samples.
    """

    metric: str
    value: float
    standard_error: float | None
    instrument: str


def parse_metrics(text: str) -> list[str]:
    """Return the names in a list with commas.

    Raises:
        ConfigError: if one is none of `METRICS`.
    """
    names = [name.strip().replace("-", "_") for name in text.split(",") if name.strip()]
    for name in names:
        if name not in METRICS:
            raise ConfigError(
                f"no metric {name!r};{nearest(name, list(METRICS))} valid: {', '.join(METRICS)}"
            )
    if not names:
        raise ConfigError(f"--metrics names none; valid: {', '.join(METRICS)}")
    return names


def evaluate(
    checkpoint: Path,
    metrics: Sequence[str],
    num_samples: int,
    *,
    data_root: Path | None = None,
    weights: Path | None = None,
) -> list[Measurement]:
    """Measure the best generator of a run, on latents that did not choose it.

    Args:
        checkpoint: As `load_generator` takes it.
        metrics: Names of `METRICS`.
        num_samples: How many samples to draw.
        data_root: Where the data set lies; by default where the run had it.
        weights: File with the Inception weights that ``fid`` wants; by default that in torch's cache.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
        ConfigError: if a metric is not measured on this data set.
        DataError: if the data set or weights cannot be loaded.
    """
    config, generator = load_generator(checkpoint)
    config = with_features(config, checkpoint)
    if data_root is not None:
        config = config.model_copy(update={"data_root": str(data_root.absolute())})
    inception = _inception(config, weights) if "fid" in metrics else None
    samples = generate(generator, score_latents(config.latent_dim, num_samples, _LATENT_SEED))
    own = [name for name in metrics if name != "fid"]
    measured = _measure(config, samples, own) if own else {}
    if inception is not None:
        real = resize(load_data(config).held_out, config.image_size)
        value = inception_distance(samples, real, inception)
        by = f"inception-{digest_of(inception.read_bytes())[:8]}, N={num_samples} against {len(real)}"
        measured["fid"] = Measurement("fid", value, None, f"{by} of {config.dataset}")
    return [measured[name] for name in dict.fromkeys(metrics)]


def _measure(config: GanConfig, samples: Tensor, metrics: Sequence[str]) -> dict[str, Measurement]:
    scorer = scorer_of(config)
    scores = scorer.score(samples)
    measured = {}
    for name in metrics:
        if name not in scores:
            known = ", ".join(metric for metric in METRICS if metric in scores)
            raise ConfigError(f"{name} is not measured on {config.dataset}; valid there: {known}")
        error = scores["fid_proxy_se"] if name == "fid_proxy" else None
        measured[name] = Measurement(name, scores[name], error, scorer.name(len(samples)))
    return measured


def _inception(config: GanConfig, weights: Path | None) -> Path:
    if config.image_size is None:
        raise ConfigError("fid is a distance of images, and dataset circle holds points")
    return inception_weights(weights)

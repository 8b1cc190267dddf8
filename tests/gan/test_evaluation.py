import math
from pathlib import Path

import pytest

from tests.gan.test_training import TINY_DIGITS
from tune_gan import train
from tune_gan.config import GanConfig
from tune_gan.errors import CheckpointError, ConfigError, DataError
from tune_gan.gan.evaluation import METRICS, evaluate, parse_metrics
from tune_gan.gan.sampling import load_generator
from tune_gan.gan.scoring import generate, load_scorer
from tune_gan.metrics.score import score_latents


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    train(GanConfig.parse(TINY_DIGITS), folder)
    return folder


def test_measures_are_those_of_the_best_generator_on_other_latents(trained: Path) -> None:
    names = [name for name in METRICS if name not in ("fid", "radial_error", "sector_coverage")]
    measured = {m.metric: m for m in evaluate(trained, names, 1000)}
    assert list(measured) == names
    config, generator = load_generator(trained)
    samples = generate(generator, score_latents(config.latent_dim, 1000, seed=1))
    scores = load_scorer("digits", Path(), 8).score(samples)
    assert {name: m.value for name, m in measured.items()} == {name: scores[name] for name in names}
    assert {m.instrument for m in measured.values()} == {"digits-lenet-v1, N=1000"}
    assert measured["fid_proxy"].standard_error == scores["fid_proxy_se"]
    assert all(m.standard_error is None for name, m in measured.items() if name != "fid_proxy")


def test_names_are_taken_with_dashes_and_spaces() -> None:
    assert parse_metrics("fid-proxy, kid,") == ["fid_proxy", "kid"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fid_prox", r"no metric 'fid_prox'; did you mean fid_proxy\? valid: fid_proxy, kid"),
        ("", "names none; valid: fid_proxy"),
    ],
)
def test_what_is_no_metric(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_metrics(text)


def test_a_measure_that_the_data_set_has_not(trained: Path) -> None:
    with pytest.raises(ConfigError, match=r"radial_error is not measured on digits; valid there: fid_"):
        evaluate(trained, ["radial_error"], 100)


def test_points_have_no_inception_distance(tiny_ring: GanConfig, tmp_path: Path) -> None:
    train(tiny_ring, tmp_path / "run")
    with pytest.raises(ConfigError, match="fid is a distance of images"):
        evaluate(tmp_path / "run", ["fid"], 100)
    (error,) = evaluate(tmp_path / "run", ["radial_error"], 100)
    assert math.isfinite(error.value)


def test_what_is_missing_is_said_before_samples_are_drawn(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.pth is no file of Inception weights"):
        evaluate(trained, ["fid"], 100, weights=tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        evaluate(tmp_path, ["kid"], 100)

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tune_gan.config import GanConfig
from tune_gan.gan.data import RING_NOISE, load_data, load_dataset, resize
from tune_gan.gan.scoring import load_scorer, scorer_of
from tune_gan.gan.training import iterate
from tune_gan.metrics.arithmetic import set_products
from tune_gan.metrics.fourier import fourier_features
from tune_gan.metrics.resizing import resized_by_products
from tune_gan.metrics.ring import ring_measures
from tune_gan.metrics.score import WORST_SCORE, score_latents
from tune_gan.results.trials import ranking_score

_SHORT: dict[str, dict[str, Any]] = {
    "digits": {"gen_hidden": [256, 512], "disc_hidden": [512, 256], "num_iterations": 400},
    # At 500, on some machines, two thirds of its samples still have a twin, and it is degenerate.
    "mnist": {"num_iterations": 700, "report_every": 700},
}


def ring(count: int, noise: float = RING_NOISE, turns: float = 1.0, seed: int = 11) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * turns * torch.rand(count, generator=source)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    return circle + noise * torch.randn(count, 2, generator=source)


def test_ring_score_orders_real_noisier_half_point() -> None:
    scorer = load_scorer("circle", Path(), None)
    candidates = {
        "real": ring(2000),
        "noisier": ring(2000, noise=3 * RING_NOISE),
        "half": ring(2000, turns=0.5),
        "point": torch.tensor([[1.0, 0.0]]).repeat(2000, 1),
    }
    scores = [scorer.score(points) for points in candidates.values()]
    fids = [score["fid_proxy"] for score in scores]
    assert fids[0] < 0.5
    assert all(a < b / 2 for a, b in itertools.pairwise(fids))
    coverages = [score["coverage"] for score in scores]
    assert coverages[0] > 0.9
    assert coverages == sorted(coverages, reverse=True)
    assert coverages[-1] < 0.01


def test_ring_measures() -> None:
    whole = ring_measures(ring(2000), 1.0, RING_NOISE)
    assert whole["radial_error"] == pytest.approx(RING_NOISE * math.sqrt(2 / math.pi), rel=0.1)
    assert whole["sector_coverage"] == 1.0
    half = ring_measures(ring(2000, noise=0, turns=0.5), 1.0, RING_NOISE)
    assert half["sector_coverage"] == pytest.approx(0.5, abs=1 / 32)
    centre = ring_measures(0.1 * torch.randn(2000, 2), 1.0, RING_NOISE)
    assert centre["sector_coverage"] == 0.0
    assert centre["radial_error"] > 0.8


def test_fourier_features_are_fixed_and_approximate_kernels() -> None:
    points = ring(50)
    features = fourier_features(points)
    assert features.shape == (50, 64)
    assert torch.equal(features, fourier_features(points))
    norms = features.square().sum(dim=1)
    assert torch.allclose(norms, torch.full((50,), 64.0))


def test_digits_score_sees_noise_and_repetition() -> None:
    digits = load_dataset("digits", Path())
    scorer = load_scorer("digits", Path(), 8)
    real = scorer.score(digits.train)
    noise = torch.randint(0, 256, (2000, 1, 8, 8), dtype=torch.uint8)
    memorised = digits.train[:10].repeat(200, 1, 1, 1)
    assert real["fid_proxy"] < 1.0
    assert real["coverage"] > 0.95
    assert real["density"] == pytest.approx(1, abs=0.1)
    assert real["class_entropy"] == pytest.approx(1, abs=0.01)
    assert real["distinct"] > 0.98
    assert abs(real["kid"]) < 0.02
    assert 0 < real["fid_proxy_se"] < real["fid_proxy"]
    noisy = scorer.score(noise)
    assert noisy["fid_proxy"] > 20 * real["fid_proxy"]
    assert noisy["kid"] > 1
    assert noisy["density"] < 0.05
    repeated = scorer.score(memorised)
    assert repeated["coverage"] < 0.2
    assert repeated["distinct"] == 0


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_ranking_rule_places_an_honest_generator_above_all_that_cheat(
    name: str, request: pytest.FixtureRequest
) -> None:
    """Ten and a hundred memorised images, one class, and noise, each against a short training."""
    root = None if name == "digits" else request.getfixturevalue("mnist_root")
    config = GanConfig.parse({**_SHORT[name], "dataset": name, "data_root": root})
    data, scorer = load_data(config), scorer_of(config)
    assert data.train_labels is not None
    honest = [report.metrics for report in iterate(config)][-1]
    draw = torch.Generator().manual_seed(0)
    several = [torch.randint(count, (2000,), generator=draw) for count in (10, 100)]
    cheats = {
        "ten": data.train[several[0]],
        "hundred": data.train[several[1]],
        "one class": data.train[data.train_labels == 3][:2000],
        "noise": torch.randint(0, 256, (2000, *config.sample_shape), dtype=torch.uint8, generator=draw),
    }
    places = {cheat: ranking_score(scorer.score(samples)) for cheat, samples in cheats.items()}
    assert all(ranking_score(honest) < place for place in places.values()), (honest, places)
    # Their scores alone would not tell: a hundred images repeated have the better one.
    assert scorer.score(cheats["hundred"])["fid_proxy"] < honest["fid_proxy"]


def test_samples_of_one_class_have_no_class_entropy() -> None:
    digits = load_dataset("digits", Path())
    assert digits.train_labels is not None
    ones = digits.train[digits.train_labels == 1]
    score = load_scorer("digits", Path(), 8).score(ones)
    assert score["class_entropy"] < 0.1
    assert score["coverage"] < 0.25
    assert score["fid_proxy"] > 10


def test_an_instrument_is_named_by_all_that_a_score_depends_on() -> None:
    assert load_scorer("circle", Path(), None).name() == "circle-fourier-v1, N=2000"
    assert load_scorer("digits", Path(), 8).name(500) == "digits-lenet-v1, N=500"
    assert load_scorer("digits", Path(), 28).name() == "digits-lenet-v1-28px, N=2000"


def test_real_images_of_another_size_score_as_well() -> None:
    enlarged = resize(load_dataset("digits", Path()).train, 28)
    score = load_scorer("digits", Path(), 28).score(enlarged)
    assert score["fid_proxy"] < 1.0
    assert score["coverage"] > 0.95


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38, -1e25])
def test_what_is_out_of_bounds_gets_the_worst_score(value: float) -> None:
    points = ring(2000)
    points[5, 1] = value
    score = load_scorer("circle", Path(), None).score(points)
    assert score["fid_proxy"] == WORST_SCORE
    assert score["coverage"] == 0.0


def test_latents_are_always_the_same() -> None:
    assert torch.equal(score_latents(3), score_latents(3))
    assert score_latents(3).shape == (2000, 3)


def test_mnist_floor_and_memorised_images(mnist_root: str) -> None:
    _floor_and_memorised_images("mnist", Path(mnist_root))


@pytest.mark.slow
def test_fashion_mnist_floor_and_memorised_images(fashion_root: str) -> None:
    _floor_and_memorised_images("fashion_mnist", Path(fashion_root))


def _floor_and_memorised_images(name: str, root: Path) -> None:
    """Real against real has the size known for these features; repetition shows in coverage."""
    data, scorer = load_dataset(name, root), load_scorer(name, root, 28)
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    floors = [scorer.score(data.train[order[i : i + 2000]]) for i in range(0, 20_000, 2000)]
    floor = torch.tensor([score["fid_proxy"] for score in floors])
    thousand = scorer.score(data.train[order[:1000]].repeat(2, 1, 1, 1))
    ten = scorer.score(data.train[order[:10]].repeat(200, 1, 1, 1))
    print(f"\n{name}: fid_proxy of real images {floor.mean():.2f} +- {floor.std():.2f}")
    hundred = scorer.score(data.train[order[:100]].repeat(20, 1, 1, 1))
    for count, score in (("1,000", thousand), ("100", hundred), ("10", ten)):
        fid, coverage = score["fid_proxy"], score["coverage"]
        print(f"{name}: {count} real images repeated: {fid:.2f}, coverage {coverage:.2f}")
        assert score["degenerate"]
    assert not any(score["degenerate"] for score in floors)
    assert 0.1 < floor.mean() < 1.0
    assert min(score["coverage"] for score in floors) > 0.9
    # Of 2,000 real samples among 1,000 others, one lacks them among its 5 nearest with (2/3)^5.
    assert thousand["coverage"] == pytest.approx(1 - (2 / 3) ** 5, abs=0.05)
    assert ten["coverage"] < 0.05


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the ways that are a GPU's alone."""
    monkeypatch.setattr("tune_gan.metrics.classifier.resized", resized_by_products)
    monkeypatch.setattr("tune_gan.metrics.kernel._ROWS_AT_A_TIME", 777)


@pytest.mark.parametrize(("dataset", "size"), [("digits", 28), ("digits", 8), ("circle", None)])
def test_a_gpus_ways_come_to_a_cpus_scores(
    dataset: str, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_dataset(dataset, Path())
    samples = resize(data.train[:1000], size)
    expected = load_scorer(dataset, Path(), size).score(samples)
    load_scorer.cache_clear()
    _as_on_a_gpu(monkeypatch)
    found = load_scorer(dataset, Path(), size).score(samples)
    load_scorer.cache_clear()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@on_gpu
@pytest.mark.parametrize(("dataset", "size"), [("digits", 28), ("digits", 8), ("circle", None)])
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_a_gpu_comes_to_a_cpus_scores(dataset: str, size: int | None, precision: str) -> None:
    data = load_dataset(dataset, Path())
    samples = resize(data.train[:1000], size)
    expected = load_scorer(dataset, Path(), size).score(samples)
    set_products("tf32" if precision == "tf32" else "ieee")
    scorer = load_scorer(dataset, Path(), size, device=torch.device("cuda"))
    found = scorer.score(samples.to("cuda"))
    set_products("ieee")
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name

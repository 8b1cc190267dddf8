import torch

from tune_gan.gan.seeds import derive_seed
from tune_gan.gan.training import iterate
from tune_gan.metrics.score import score_latents
from tune_gan.presets import load_preset


def test_streams_and_seeds_are_apart_and_fixed() -> None:
    seeds = {derive_seed(seed, stream) for seed in range(50) for stream in ("weights", "latents")}
    assert len(seeds) == 100
    assert derive_seed(0, "latents") == derive_seed(0, "latents")
    for seed in seeds:
        torch.Generator().manual_seed(seed)


def test_no_latents_of_training_are_those_of_the_score() -> None:
    config = load_preset("circle")
    for seed in (0, 42, 20_170_626):
        source = torch.Generator().manual_seed(derive_seed(seed, "latents"))
        latents = torch.randn(2000, config.latent_dim, generator=source)
        assert not bool((latents[:, None, 0] == score_latents(config.latent_dim)[None, :, 0]).any())


def test_first_weights_do_not_follow_the_first_latents() -> None:
    config = load_preset("vanilla").model_copy(
        update={"dataset": "digits", "image_size": 8, "num_iterations": 1, "report_every": 1}
    )
    torch.manual_seed(derive_seed(config.seed, "weights and dropout"))
    weights = torch.nn.Linear(100, 256).weight.detach().flatten()[:12_800]
    source = torch.Generator().manual_seed(derive_seed(config.seed, "latents"))
    radii = torch.randn(128, 100, generator=source).abs().flatten()
    correlation = torch.corrcoef(torch.stack([weights.abs(), radii]))[0, 1]
    assert abs(correlation) < 0.05
    assert next(iterate(config)).metrics["iteration"] == 1

import itertools
import math

import pytest
import torch
from torch import nn

from tune_gan.config import GanConfig
from tune_gan.gan.models import build_networks, choose_device
from tune_gan.presets import load_preset


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("preset", ["vanilla", "simple", "circle", "digits", "dcgan28", "dcgan64"])
def test_shapes_and_ranges(preset: str) -> None:
    config = load_preset(preset)
    generator, discriminator = build_networks(config)
    samples = generator(torch.randn(3, config.latent_dim))
    assert samples.shape == (3, *config.sample_shape)
    assert discriminator(samples).shape == ((3, 2) if preset == "circle" else (3,))
    if config.image_size is not None:
        assert samples.abs().max() <= 1


def test_vanilla_is_the_pair_of_the_tutorial() -> None:
    generator, discriminator = build_networks(load_preset("vanilla"))
    widths = [100, 256, 512, 1024, 784]
    dense = sum((i + 1) * o for i, o in itertools.pairwise(widths))
    assert _parameters(generator) == dense
    widths = [784, 1024, 512, 256, 1]
    dense = sum((i + 1) * o for i, o in itertools.pairwise(widths))
    assert _parameters(discriminator) == dense
    dropouts = [m for m in discriminator.modules() if isinstance(m, nn.Dropout)]
    assert [dropout.p for dropout in dropouts] == [0.3, 0.3, 0.3]
    assert not any(isinstance(m, nn.Dropout) for m in generator.modules())
    slopes = {m.negative_slope for m in generator.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.2}


def test_dcgan28_is_the_pair_of_the_tutorial() -> None:
    generator, discriminator = build_networks(load_preset("dcgan28"))
    start = 7 * 7 * 256
    convolutions = 25 * (256 * 128 + 128 * 64 + 64)
    norms = 2 * (start + 128 + 64)
    assert _parameters(generator) == 100 * start + convolutions + norms
    first, second, last = 25 * 64 + 64, 25 * 64 * 128 + 128, 7 * 7 * 128 + 1
    assert _parameters(discriminator) == first + second + last


def test_dcgan64_is_the_pair_of_the_tutorial() -> None:
    generator, discriminator = build_networks(load_preset("dcgan64"))
    channels = [100, 1024, 512, 256, 128]
    blocks = sum(16 * i * o + 2 * o for i, o in itertools.pairwise(channels))
    assert _parameters(generator) == blocks + 16 * 128 + 1
    channels = [64, 128, 256, 512]
    blocks = sum(16 * i * o + 2 * o for i, o in itertools.pairwise(channels))
    assert _parameters(discriminator) == 16 * 64 + 64 + blocks + 16 * 512 + 1


def test_simple_is_the_pair_of_the_tutorial() -> None:
    generator, discriminator = build_networks(load_preset("simple"))
    assert _parameters(generator) == 65 * 256 + 257 * 784
    assert _parameters(discriminator) == 785 * 128 + 129
    slopes = [m.negative_slope for m in generator.modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.1]


def test_circle_is_the_pair_of_the_tutorial() -> None:
    config = load_preset("circle")
    hidden = config.gen_hidden[0]
    # Both: 2 inputs, two hidden layers of a width, 2 outputs, all with biases.
    expected = (2 + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * 2
    for network in build_networks(config):
        assert _parameters(network) == expected


@pytest.mark.parametrize("architecture", ["mlp", "dcgan28", "dcgan64"])
def test_a_folder_s_images_have_three_channels(architecture: str) -> None:
    values = {"dataset": "folder", "data_root": "x", "architecture": architecture, "features": 4}
    config = GanConfig.parse(values)
    generator, discriminator = build_networks(config)
    images = generator(torch.randn(2, config.latent_dim))
    size = 28 if architecture == "dcgan28" else 64
    assert images.shape == (2, 3, size, size)
    assert discriminator(images).shape == (2,)


@pytest.mark.parametrize("architecture", ["mlp", "dcgan28", "dcgan64"])
def test_batch_norm_in_the_discriminator(architecture: str) -> None:
    norms, biases = {}, {}
    for given in (None, True, False):
        config = GanConfig.parse(
            {"architecture": architecture, "features": 4, "disc_batch_norm": given}
        )
        _, discriminator = build_networks(config)
        modules = list(discriminator.modules())
        norms[given] = sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in modules)
        layers = [m for m in modules if isinstance(m, nn.Linear | nn.Conv2d)]
        biases[given] = sum(layer.bias is not None for layer in layers)
    own = architecture == "dcgan64"
    assert norms[None] == norms[own]
    assert norms[False] == 0
    assert norms[True] == {"mlp": 3, "dcgan28": 1, "dcgan64": 3}[architecture]
    # What batch norm shifts needs no bias of its own.
    assert biases[False] - biases[True] == norms[True]


def test_spectral_norm_bounds_every_weight_of_the_discriminator() -> None:
    torch.manual_seed(0)
    for architecture in ("mlp", "dcgan28", "dcgan64"):
        config = GanConfig.parse({"architecture": architecture, "features": 4, "spectral_norm": True})
        generator, discriminator = build_networks(config)
        images = torch.randn(4, *config.sample_shape)
        for _ in range(200):
            discriminator(images)
        layers = [m for m in discriminator.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        assert layers
        for layer in layers:
            norm = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item()
            assert norm == pytest.approx(1, abs=0.02)
        assert not any("parametrizations" in name for name, _ in generator.named_parameters())


@pytest.mark.parametrize("preset", ["dcgan28", "dcgan64"])
def test_dcgan_convolutions_are_drawn_with_deviation_0_02(preset: str) -> None:
    torch.manual_seed(0)
    for network in build_networks(load_preset(preset)):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                deviation = module.weight.std().item()
                tolerance = 4 * 0.02 / math.sqrt(2 * module.weight.numel())
                assert abs(deviation - 0.02) < tolerance


@pytest.mark.parametrize("preset", ["vanilla", "dcgan28"])
def test_dense_layers_start_as_flux_starts_them(preset: str) -> None:
    torch.manual_seed(0)
    for network in build_networks(load_preset(preset)):
        for module in network.modules():
            if isinstance(module, nn.Linear):
                bound = math.sqrt(6 / (module.in_features + module.out_features))
                assert 0.95 * bound < module.weight.abs().max().item() <= bound
                assert module.bias is None or not bool(module.bias.any())


@pytest.mark.parametrize(
    ("activation", "at_minus_one"),
    [
        ("relu", 0.0),
        ("leaky_relu", -0.3),
        ("elu", 0.3 * (math.exp(-1) - 1)),
        ("celu", 0.3 * (math.exp(-1 / 0.3) - 1)),
        ("trelu", 0.0),
        ("gelu", -0.5 * (1 + math.erf(-1 / math.sqrt(2)))),
        ("silu", -1 / (1 + math.e)),
        ("selu", 1.0507009873554805 * 1.6732632423543772 * (math.exp(-1) - 1)),
        ("mish", -math.tanh(math.log1p(math.exp(-1)))),
        ("tanh", math.tanh(-1)),
        ("softplus", math.log1p(math.exp(-1))),
    ],
)
def test_activations(activation: str, at_minus_one: float) -> None:
    config = GanConfig.parse({"activation": activation, "activation_alpha": 0.3})
    discriminator = build_networks(config)[1]
    chosen = [m for m in discriminator.modules() if not list(m.children())][2]
    assert chosen(torch.tensor(-1.0)).item() == pytest.approx(at_minus_one, abs=1e-6)


def test_trelu_passes_only_what_exceeds_its_threshold() -> None:
    config = GanConfig(activation="trelu", activation_alpha=1.0)
    chosen = next(m for m in build_networks(config)[1].modules() if isinstance(m, nn.Threshold))
    assert chosen(torch.tensor([0.5, 1.5])).tolist() == [0.0, 1.5]


def test_choose_device() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")

"""Generators and discriminators: the vanilla MLP pair and two DCGANs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.gan.devices import find_best_device, find_problem
from tune_gan.gan.dropout import Dropout

_ACTIVATIONS: dict[str, Callable[[float], nn.Module]] = {
    "relu": lambda alpha: nn.ReLU(),
    "leaky_relu": lambda alpha: nn.LeakyReLU(alpha),
    "elu": lambda alpha: nn.ELU(alpha),
    "celu": lambda alpha: nn.CELU(alpha),
    "trelu": lambda alpha: nn.Threshold(alpha, 0.0),
    "gelu": lambda alpha: nn.GELU(),
    "silu": lambda alpha: nn.SiLU(),
    "selu": lambda alpha: nn.SELU(),
    "mish": lambda alpha: nn.Mish(),
    "tanh": lambda alpha: nn.Tanh(),
    "softplus": lambda alpha: nn.Softplus(),
}


class MlpGenerator(nn.Module):
    """Latents ``(B, latent_dim)`` to samples, through fully connected layers.

    Images ``(B, 1, H, W)`` end in tanh, in [-1, 1]; points ``(B, 2)`` are linear. At widths 256, 512,
    1024 and 28x28 this is the generator of the Flux vanilla GAN tutorial.
    """

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in = config.latent_dim
        for width in config.gen_hidden:
            layers += [nn.Linear(width_in, width), _activation(config)]
            width_in = width
        layers.append(nn.Linear(width_in, math.prod(config.sample_shape)))
        if config.image_size is not None:
            layers += [nn.Tanh(), nn.Unflatten(1, config.sample_shape)]
        self.layers = nn.Sequential(*layers)
        self.apply(_init_dense)

    def forward(self, latents: Tensor) -> Tensor:
        """Generate one sample for each latent."""
        output: Tensor = self.layers(latents)
        return output


class MlpDiscriminator(nn.Module):
    """Samples to logits ``(B,)``, through fully connected layers with dropout.

    At widths 1024, 512, 256 and 28x28 this is the discriminator of the Flux vanilla GAN tutorial. With
    2 logits, as the Flax tutorial's has, or more, they are ``(B, disc_logits)``.
    """

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width_in = math.prod(config.sample_shape)
        for width in config.disc_hidden:
            batch_norm = [nn.BatchNorm1d(width)] if config.disc_batch_norm else []
            layers += [nn.Linear(width_in, width, bias=not batch_norm), *batch_norm]
            layers += [_activation(config), Dropout(config.dropout)]
            width_in = width
        self.layers = nn.Sequential(*layers, nn.Linear(width_in, config.disc_logits))
        self.apply(_init_dense)

    def forward(self, samples: Tensor) -> Tensor:
        """Return the logit of 'real' for each sample."""
        logits: Tensor = self.layers(samples)
        return logits.squeeze(1)


class Dcgan28Generator(nn.Module):
    """Latents ``(B, latent_dim)`` to images ``(B, channels, 28, 28)`` in [-1, 1].

    The generator of the Flux DCGAN tutorial (after Radford et al. 2015,
    https://arxiv.org/abs/1511.06434): 7x7 to 28x28 by 5x5 transposed convolutions, batch norm and
    ReLU; channels ``4f, 2f, f`` for ``f = features``.
    """

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        f = config.features
        self.layers = nn.Sequential(
            nn.Linear(config.latent_dim, 7 * 7 * 4 * f, bias=False),
            nn.BatchNorm1d(7 * 7 * 4 * f),
            nn.ReLU(),
            nn.Unflatten(1, (4 * f, 7, 7)),
            nn.ConvTranspose2d(4 * f, 2 * f, 5, stride=1, padding=2, bias=False),
            nn.BatchNorm2d(2 * f),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * f, f, 5, stride=2, padding=2, output_padding=1, bias=False),
            nn.BatchNorm2d(f),
            nn.ReLU(),
            nn.ConvTranspose2d(
                f, config.sample_shape[0], 5, stride=2, padding=2, output_padding=1, bias=False
            ),
            nn.Tanh(),
        )
        self.apply(_init_dense)
        self.apply(_init_convolutions)

    def forward(self, latents: Tensor) -> Tensor:
        """Generate one image for each latent."""
        images: Tensor = self.layers(latents)
        return images


class Dcgan28Discriminator(nn.Module):
    """Images ``(B, channels, 28, 28)`` to logits ``(B,)``.

    The discriminator of the Flux DCGAN tutorial: two 5x5 convolutions of stride 2 with ``f`` and
    ``2f`` channels, dropout after each. Batch norm, which it has not there, would be in the second, as
    Radford et al. 2015 advise.
    """

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        f = config.features
        self.layers = nn.Sequential(
            nn.Conv2d(config.sample_shape[0], f, 5, stride=2, padding=2),
            _activation(config),
            Dropout(config.dropout),
            *_downsample(config, nn.Conv2d(f, 2 * f, 5, 2, 2, bias=not config.disc_batch_norm)),
            nn.Flatten(),
            nn.Linear(7 * 7 * 2 * f, 1),
        )
        self.apply(_init_dense)
        self.apply(_init_convolutions)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logit of 'real' for each image."""
        logits: Tensor = self.layers(images)
        return logits.squeeze(1)


class Dcgan64Generator(nn.Module):
    """Latents ``(B, latent_dim)`` to images ``(B, channels, 64, 64)`` in [-1, 1].

    The generator of the PyTorch DCGAN seed (Radford et al. 2015): five 4x4 transposed convolutions,
    channels ``16f, 8f, 4f, 2f``, batch norm and ReLU between them.
    """

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        f = config.features
        self.layers = nn.Sequential(
            nn.Unflatten(1, (config.latent_dim, 1, 1)),
            *_upsample(config.latent_dim, 16 * f, stride=1, padding=0),
            *_upsample(16 * f, 8 * f, stride=2, padding=1),
            *_upsample(8 * f, 4 * f, stride=2, padding=1),
            *_upsample(4 * f, 2 * f, stride=2, padding=1),
            nn.ConvTranspose2d(2 * f, config.sample_shape[0], 4, stride=2, padding=1),
            nn.Tanh(),
        )
        self.apply(_init_all_normal)

    def forward(self, latents: Tensor) -> Tensor:
        """Generate one image for each latent."""
        images: Tensor = self.layers(latents)
        return images


class Dcgan64Discriminator(nn.Module):
    """Images ``(B, channels, 64, 64)`` to logits ``(B,)``: the discriminator of the PyTorch DCGAN seed.

    Five 4x4 convolutions of stride 2, channels ``f, 2f, 4f, 8f``, batch norm in the middle ones.
    """

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        f = config.features
        self.layers = nn.Sequential(
            nn.Conv2d(config.sample_shape[0], f, 4, stride=2, padding=1),
            _activation(config),
            Dropout(config.dropout),
            *_downsample(config, nn.Conv2d(f, 2 * f, 4, 2, 1, bias=not config.disc_batch_norm)),
            *_downsample(config, nn.Conv2d(2 * f, 4 * f, 4, 2, 1, bias=not config.disc_batch_norm)),
            *_downsample(config, nn.Conv2d(4 * f, 8 * f, 4, 2, 1, bias=not config.disc_batch_norm)),
            nn.Conv2d(8 * f, 1, 4, stride=2, padding=0),
            nn.Flatten(),
        )
        self.apply(_init_all_normal)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logit of 'real' for each image."""
        logits: Tensor = self.layers(images)
        return logits.squeeze(1)


_PAIRS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "mlp": (MlpGenerator, MlpDiscriminator),
    "dcgan28": (Dcgan28Generator, Dcgan28Discriminator),
    "dcgan64": (Dcgan64Generator, Dcgan64Discriminator),
}


def build_networks(config: GanConfig) -> tuple[nn.Module, nn.Module]:
    """Build the generator and the discriminator on the CPU, weights from torch's global RNG.

    Returns:
        ``(generator, discriminator)``: the first maps latents ``(B, latent_dim)`` to samples
        ``(B, *config.sample_shape)``, the second maps such samples to logits ``(B,)``, or
        ``(B, disc_logits)`` where there are several.
    """
    generator = build_generator(config)
    discriminator = _PAIRS[config.architecture][1](config)
    if config.spectral_norm:
        # Miyato et al. 2018, https://arxiv.org/abs/1802.05957, one power iteration a pass.
        for layer in [m for m in discriminator.modules() if isinstance(m, nn.Linear | nn.Conv2d)]:
            spectral_norm(layer)
    return generator, discriminator


def build_generator(config: GanConfig) -> nn.Module:
    """Build the generator alone, as `build_networks` does."""
    return _PAIRS[config.architecture][0](config)


def _activation(config: GanConfig) -> nn.Module:
    return _ACTIVATIONS[config.activation](config.activation_alpha)


def _upsample(channels_in: int, channels_out: int, stride: int, padding: int) -> list[nn.Module]:
    return [
        nn.ConvTranspose2d(channels_in, channels_out, 4, stride, padding, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]


def _downsample(config: GanConfig, convolution: nn.Conv2d) -> list[nn.Module]:
    batch_norm = [nn.BatchNorm2d(convolution.out_channels)] if config.disc_batch_norm else []
    return [convolution, *batch_norm, _activation(config), Dropout(config.dropout)]


def _init_dense(module: nn.Module) -> None:
    """Draw weights as Glorot and Bengio 2010 do, uniform, biases 0: what Flux's Dense starts from."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _init_convolutions(module: nn.Module) -> None:
    """Draw the weights of convolutions from normal(0, 0.02), as the DCGAN paper does."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)


def _init_all_normal(module: nn.Module) -> None:
    """Draw weights of convolutions and, as that seed does, of batch norm from normal(0, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 0.0, 0.02)


def choose_device(name: str) -> torch.device:
    """Return the device that a config names; ``auto`` is a GPU that torch can use, or else the CPU.

    Where the CPU is named, nothing is asked of CUDA.

    Raises:
        ConfigError: if the device is not there or torch cannot use it, with the reason.
    """
    if name == "auto":
        return find_best_device()
    device = torch.device(name)
    if problem := find_problem(device):
        raise ConfigError(f"device {name} {problem}; use auto or cpu")
    return device

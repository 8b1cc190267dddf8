"""A network of which every lane has its own weights: parameters have the lanes as a leading axis.

Samples and what becomes of them are ``(lanes, B, ...)`` from layer to layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses)
from torch import Tensor, nn

from tune_gan.config import GanConfig
from tune_gan.gan.dropout import Dropout, draw_bits, least_kept

# Activations with the parameter that a configuration calls `activation_alpha`.
_WITH_ALPHA = (nn.LeakyReLU, nn.ELU, nn.CELU, nn.Threshold)
# Those that have none, and those that keep no weights, are the same in lanes.
_AS_THEY_ARE = (nn.ReLU, nn.GELU, nn.SiLU, nn.SELU, nn.Mish, nn.Tanh, nn.Softplus)

_Layer = Callable[[Tensor], Tensor]


@dataclass
class LaneSettings:
    """What the layers of all lanes have to know of each.

    Attributes:
        alpha: Parameter of the activation, ``(lanes,)``.
        dropout_sources: Random numbers of dropout, by lane; none where nothing is dropped.
        least_kept: The lowest bits with which a unit is kept, int16 ``(lanes,)``.
        scale: What those that are kept are multiplied by, ``(lanes,)``.
        drops: Whether dropout is on.
        updates: Which lanes' running statistics take in a pass, ``(lanes,)``; none for all of them.
    """

    alpha: Tensor
    dropout_sources: list[torch.Generator | None]
    least_kept: Tensor
    scale: Tensor
    drops: bool = True
    updates: Tensor | None = None

    @classmethod
    def empty(cls, num_lanes: int, device: torch.device) -> "LaneSettings":
        """Return settings of lanes that are empty."""
        alpha, scale = torch.zeros(num_lanes, device=device), torch.ones(num_lanes, device=device)
        all_bits = torch.full((num_lanes,), least_kept(0.0), dtype=torch.int16, device=device)
        return cls(alpha, [None] * num_lanes, all_bits, scale)

    def set_dropout(self, lane: int, probability: float, source: torch.Generator | None) -> None:
        """Drop units of a lane with that probability, by those random numbers."""
        self.dropout_sources[lane] = source if probability else None
        self.least_kept[lane], self.scale[lane] = least_kept(probability), 1 / (1 - probability)

    @contextmanager
    def no_dropout(self) -> Iterator[None]:
        """Drop no units."""
        self.drops = False
        try:
            yield
        finally:
            self.drops = True


def has_lanes(config: GanConfig) -> bool:
    """Return whether networks of a configuration can be trained in lanes.

    All can but those with spectral norm, whose power iterations belong to one network.
    """
    return not config.spectral_norm


class LaneNetwork:
    """The networks of all lanes, as one that maps ``(lanes, B, ...)`` to ``(lanes, B, ...)``.

    Args:
        template: A network of `tune_gan.gan.models`, of which all lanes have the shape.
        settings: Of the lanes.

    Attributes:
        flat: All parameters, ``(lanes, P)``.
        gradients: Their gradients, alike, as `differentiate` left them.
        parameters: The parameters by name, ``(lanes, ...)``; they share the memory of `flat`.
        buffers: The running statistics by name, alike.
    """

    def __init__(self, template: nn.Module, settings: LaneSettings) -> None:
        self.settings = settings
        num_lanes, device = len(settings.dropout_sources), settings.alpha.device
        named = dict(template.named_parameters())
        self.flat = torch.zeros(num_lanes, sum(p.numel() for p in named.values()), device=device)
        self.gradients = torch.zeros_like(self.flat)
        self.parameters: dict[str, Tensor] = {}
        self.slices: dict[str, slice] = {}
        start = 0
        for name, parameter in named.items():
            part = slice(start, start := start + parameter.numel())
            self.slices[name] = part
            leaf = self.flat[:, part].view(num_lanes, *parameter.shape).detach().requires_grad_()
            self.parameters[name] = leaf
        self.buffers = {
            name: buffer.new_zeros(num_lanes, *buffer.shape, device=device)
            for name, buffer in template.named_buffers()
        }
        layers = template.get_submodule("layers")
        assert isinstance(layers, nn.Sequential)
        self._layers = [self._in_lanes(layer, f"layers.{i}") for i, layer in enumerate(layers)]

    def __call__(self, samples: Tensor) -> Tensor:
        """Return the outputs of all lanes; logits are ``(lanes, B, disc_logits)``."""
        for layer in self._layers:
            samples = layer(samples)
        return samples

    def differentiate(self, loss: Tensor) -> None:
        """Compute the gradients of a scalar by the parameters."""
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        torch.cat([gradient.flatten(1) for gradient in gradients], dim=1, out=self.gradients)

    def put(self, lane: int, network: nn.Module) -> None:
        """Copy a network's parameters and running statistics into a lane."""
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                self.parameters[name][lane].copy_(parameter)
            for name, value in network.named_buffers():
                self.buffers[name][lane].copy_(value)

    def take(self, lane: int, network: nn.Module) -> None:
        """Copy a lane's parameters, their gradients and the running statistics into a network."""
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(self.parameters[name][lane])
                gradient = self.gradients[lane, self.slices[name]]
                parameter.grad = gradient.view_as(parameter).clone()
            for name, value in network.named_buffers():
                value.copy_(self.buffers[name][lane])

    def _in_lanes(self, layer: nn.Module, prefix: str) -> _Layer:
        """Return what does in lanes what a layer does to one network's samples."""
        if isinstance(layer, Dropout):
            return _dropout(self.settings)
        if isinstance(layer, _WITH_ALPHA):
            return _activation_with_alpha(layer, self.settings)
        if isinstance(layer, _AS_THEY_ARE):
            return layer
        if isinstance(layer, nn.Flatten):
            return lambda x: x.flatten(2)
        if isinstance(layer, nn.Unflatten):
            return lambda x: x.unflatten(2, layer.unflattened_size)
        weight = self.parameters[f"{prefix}.weight"]
        bias = self.parameters.get(f"{prefix}.bias")
        if isinstance(layer, nn.Linear):
            return _linear(weight, bias)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            return _convolution(layer, weight, bias)
        assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d), layer
        assert bias is not None
        buffers = {name: self.buffers[f"{prefix}.{name}"] for name, _ in layer.named_buffers()}
        return _batch_norm(layer, (weight, bias), buffers, self.settings)


def _dropout(settings: LaneSettings) -> _Layer:
    """Return dropout by the random numbers of each lane, as `tune_gan.gan.dropout` draws them."""

    def forward(values: Tensor) -> Tensor:
        if not settings.drops or not any(settings.dropout_sources):
            return values
        # Where nothing is dropped, any bits are enough to be kept.
        bits = draw_bits(values.shape, values.device, settings.dropout_sources)
        each = (-1, *[1] * (values.dim() - 1))
        kept = torch.empty(values.shape, dtype=values.dtype, device=values.device)
        torch.ge(bits, settings.least_kept.view(each), out=kept)
        return values * kept.mul_(settings.scale.to(values.dtype).view(each))

    return forward


def _linear(weight: Tensor, bias: Tensor | None) -> _Layer:
    def forward(values: Tensor) -> Tensor:
        if weight.shape[1] == 1 and weight.device.type == "cuda":
            # The gradients of one output are an outer product, for which torch 2.14 has Triton compile.
            output = (values * weight).sum(dim=-1, keepdim=True)
            return output if bias is None else output + bias.unsqueeze(1)
        transposed = weight.transpose(1, 2)
        if bias is None:
            return torch.bmm(values, transposed)
        return torch.baddbmm(bias.unsqueeze(1), values, transposed)

    return forward


def _convolution(layer: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, bias: Tensor | None) -> _Layer:
    """Return a convolution of which each lane is a group of channels."""
    num_lanes = len(weight)

    def forward(values: Tensor) -> Tensor:
        kernels, flat_bias = weight.flatten(0, 1), None if bias is None else bias.flatten()
        values = _as_channels(values)
        if isinstance(layer, nn.Conv2d):
            output = F.conv2d(values, kernels, flat_bias, layer.stride, layer.padding, groups=num_lanes)
        else:
            assert not isinstance(layer.padding, str)
            padding = layer.padding, layer.output_padding
            output = F.conv_transpose2d(
                values, kernels, flat_bias, layer.stride, *padding, groups=num_lanes
            )
        return _as_lanes(output, num_lanes)

    return forward


def _batch_norm(
    layer: nn.BatchNorm1d | nn.BatchNorm2d,
    affine: tuple[Tensor, Tensor],
    buffers: dict[str, Tensor],
    settings: LaneSettings,
) -> _Layer:
    """Return batch norm over each lane's own batch."""
    mean, var, passes = (
        buffers[name] for name in ("running_mean", "running_var", "num_batches_tracked")
    )

    def forward(values: Tensor) -> Tensor:
        updates = settings.updates
        # Of lanes whose turn it is not, the statistics of this pass are thrown away.
        own_mean, own_var = (mean, var) if updates is None else (mean.clone(), var.clone())
        weight, bias = (part.flatten() for part in affine)
        output = F.batch_norm(
            _as_channels(values),
            own_mean.view(-1),
            own_var.view(-1),
            weight,
            bias,
            training=True,
            momentum=layer.momentum or 0.0,
            eps=layer.eps,
        )
        if updates is None:
            passes.add_(1)
        else:
            passes.add_(updates)
            mean.copy_(torch.where(updates[:, None], own_mean, mean))
            var.copy_(torch.where(updates[:, None], own_var, var))
        return _as_lanes(output, len(mean))

    return forward


def _activation_with_alpha(layer: nn.Module, settings: LaneSettings) -> _Layer:
    """Return an activation whose parameter differs from lane to lane."""

    def forward(values: Tensor) -> Tensor:
        alpha = settings.alpha.reshape(-1, *[1] * (values.dim() - 1))
        if isinstance(layer, nn.CELU):
            scaled: Tensor = F.elu(values / alpha) * alpha
            return scaled
        if isinstance(layer, nn.Threshold):
            kept: Tensor = values * (values > alpha)
            return kept
        # Both are alpha times something where that is not positive. The slope is found without `where`,
        # which takes ten times as long on a CPU, and has no derivative of its own.
        output = F.elu(values) if isinstance(layer, nn.ELU) else values
        alpha = alpha.to(output.dtype)
        with torch.no_grad():
            slope = torch.gt(output, 0, out=torch.empty_like(output)).mul_(1 - alpha).add_(alpha)
        sloped: Tensor = output * slope
        return sloped

    return forward


def _as_channels(values: Tensor) -> Tensor:
    """Map ``(lanes, B, C, ...)`` to ``(B, lanes C, ...)``."""
    return values.transpose(0, 1).flatten(1, 2)


def _as_lanes(values: Tensor, num_lanes: int) -> Tensor:
    """Map ``(B, lanes C, ...)`` to ``(lanes, B, C, ...)``, without a copy."""
    lanes_second: Tensor = values.unflatten(1, (num_lanes, -1))
    return lanes_second.transpose(0, 1)

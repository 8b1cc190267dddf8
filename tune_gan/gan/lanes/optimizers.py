"""Optimizers whose settings differ from lane to lane, over parameters ``(lanes, P)``.

Each follows the class of `torch.optim` of its name at that class's defaults, and takes over its state.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tune_gan.config import GanConfig

_EPS = 1e-8
_DECAY_OF_ADAMW = 1e-2
_MOMENTUM_DECAY_OF_NADAM = 4e-3

# Of each kind, the names of the state that torch.optim keeps of a parameter.
_MOMENTS = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "nadam": ("exp_avg", "exp_avg_sq"),
    "radam": ("exp_avg", "exp_avg_sq"),
    "rmsprop": ("square_avg", "momentum_buffer"),
    "sgd": ("momentum_buffer",),
}


class LaneOptimizer:
    """One optimizer for each lane.

    Args:
        kind: As `GanConfig.optimizer` has it.
        parameters: ``(lanes, P)``, changed in place.
        gradients: Of the parameters, alike.
    """

    def __init__(self, kind: str, parameters: Tensor, gradients: Tensor) -> None:
        self.kind = kind
        self._parameters, self._gradients = parameters, gradients
        num_lanes = len(parameters)
        self.moments = {name: torch.zeros_like(parameters) for name in _MOMENTS[kind]}
        # As double, since powers of decays near 1 are wanted of it.
        self.steps = torch.zeros(num_lanes, 1, dtype=torch.float64, device=parameters.device)
        self.mu_product = torch.ones_like(self.steps)
        self._settings = {
            name: torch.zeros_like(self.steps) for name in ("learning_rate", "beta1", "beta2")
        }

    def set(self, lane: int, config: GanConfig, learning_rate: float) -> None:
        """Give a lane its configuration's settings."""
        self._settings["learning_rate"][lane] = learning_rate
        self._settings["beta1"][lane] = config.beta1
        self._settings["beta2"][lane] = config.beta2

    def put(self, lane: int, optimizer: torch.optim.Optimizer, slices: Sequence[slice]) -> None:
        """Copy an optimizer's state into a lane; `slices` are those of its parameters."""
        self.steps[lane], self.mu_product[lane] = 0.0, 1.0
        for moment in self.moments.values():
            moment[lane] = 0.0
        for parameter, part in zip(_parameters(optimizer), slices, strict=True):
            state = optimizer.state.get(parameter, {})
            if "step" in state:
                self.steps[lane] = float(state["step"])
            if "mu_product" in state:
                self.mu_product[lane] = float(state["mu_product"])
            for name, moment in self.moments.items():
                if state.get(name) is not None:
                    moment[lane, part] = state[name].flatten()
                    # SGD counts no steps, but begins its momentum at the first.
                    self.steps[lane] = self.steps[lane].clamp(min=1.0)

    def take(self, lane: int, optimizer: torch.optim.Optimizer, slices: Sequence[slice]) -> None:
        """Copy a lane's state into an optimizer."""
        steps = self.steps[lane, 0].float()
        if not steps:
            return
        has_momentum = bool(self._settings["beta1"][lane])
        for parameter, part in zip(_parameters(optimizer), slices, strict=True):
            state = optimizer.state[parameter]
            if self.kind != "sgd":
                state["step"] = steps.clone()
            if self.kind == "nadam":
                state["mu_product"] = self.mu_product[lane, 0].float()
            for name, moment in self.moments.items():
                if name != "momentum_buffer" or has_momentum:
                    state[name] = moment[lane, part].view_as(parameter).clone()

    def step(self, updates: Tensor | None) -> None:
        """Change the parameters by their gradients.

        Args:
            updates: Which lanes take the step, ``(lanes, 1)``; none for all.
        """
        gradients = self._gradients
        if updates is None:
            self.steps += 1
            share: Tensor | float = 1.0
        else:
            self.steps += updates
            share = updates.to(gradients.dtype)
            gradients = torch.where(updates, gradients, 0.0)
        _STEPS[self.kind](self, gradients, share)

    def _moved(self, gradients: Tensor, share: Tensor | float) -> tuple[Tensor, Tensor]:
        """Move Adam's two moments on, and return them."""
        first, second = self.moments["exp_avg"], self.moments["exp_avg_sq"]
        beta1, beta2 = (self._settings[name].float() for name in ("beta1", "beta2"))
        first.lerp_(gradients, (1 - beta1) * share)
        kept = (1 - beta2) * share
        second.mul_(1 - kept).addcmul_(gradients, gradients * kept)
        return first, second

    def _adam(self, gradients: Tensor, share: Tensor | float) -> None:
        first, second = self._moved(gradients, share)
        beta1, beta2 = self._settings["beta1"], self._settings["beta2"]
        # A lane that has made no step yet makes none now.
        steps = self.steps.clamp(min=1.0)
        size = (self._settings["learning_rate"] / (1 - beta1**steps)).float() * share
        root = (1 - beta2**steps).sqrt().float()
        self._parameters.sub_((second.sqrt() / root).add_(_EPS).reciprocal_().mul_(first).mul_(size))

    def _adamw(self, gradients: Tensor, share: Tensor | float) -> None:
        decay = (self._settings["learning_rate"] * _DECAY_OF_ADAMW).float() * share
        self._parameters.mul_(1 - decay)
        self._adam(gradients, share)

    def _nadam(self, gradients: Tensor, share: Tensor | float) -> None:
        first, second = self._moved(gradients, share)
        rate, beta1, beta2 = self._settings.values()
        steps = self.steps.clamp(min=1.0)
        mu = beta1 * (1 - 0.5 * 0.96 ** (steps * _MOMENTUM_DECAY_OF_NADAM))
        mu_next = beta1 * (1 - 0.5 * 0.96 ** ((steps + 1) * _MOMENTUM_DECAY_OF_NADAM))
        moved = self.mu_product * mu
        took = share > 0 if isinstance(share, Tensor) else None
        self.mu_product.copy_(moved if took is None else torch.where(took, moved, self.mu_product))
        # A lane that has made no step yet has a product of 1.
        rest = torch.where(self.steps > 0, 1 - self.mu_product, 1.0)
        of_gradient = (rate * (1 - mu) / rest).float() * share
        of_moment = (rate * mu_next / (1 - self.mu_product * mu_next)).float() * share
        root = (1 - beta2**steps).sqrt().float()
        down = (second.sqrt() / root).add_(_EPS)
        self._parameters.sub_((gradients * of_gradient + first * of_moment) / down)

    def _radam(self, gradients: Tensor, share: Tensor | float) -> None:
        first, second = self._moved(gradients, share)
        rate, beta1, beta2 = self._settings.values()
        steps = self.steps.clamp(min=1.0)
        correction1, correction2 = 1 - beta1**steps, 1 - beta2**steps
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * steps * beta2**steps / correction2
        rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        # Before the variance can be told, a step without it.
        told = length > 5
        factor = torch.where(told, rectified.clamp(min=0).sqrt() * correction2.sqrt(), 1.0)
        size = (rate / correction1 * factor).float() * share
        adaptive = second.sqrt().add_(_EPS).reciprocal_()
        self._parameters.sub_(first * torch.where(told, adaptive, 1.0) * size)

    def _rmsprop(self, gradients: Tensor, share: Tensor | float) -> None:
        average, momentum = self.moments["square_avg"], self.moments["momentum_buffer"]
        rate, beta1, beta2 = (setting.float() for setting in self._settings.values())
        kept = (1 - beta2) * share
        average.mul_(1 - kept).addcmul_(gradients, gradients * kept)
        change = gradients / average.sqrt().add_(_EPS)
        # A lane that takes no step keeps its momentum.
        momentum.mul_(1 - (1 - beta1) * share).add_(change * share)
        self._parameters.sub_(momentum * (rate * share))

    def _sgd(self, gradients: Tensor, share: Tensor | float) -> None:
        momentum = self.moments["momentum_buffer"]
        rate, beta1 = (self._settings[name].float() for name in ("learning_rate", "beta1"))
        momentum.mul_(1 - (1 - beta1) * share).add_(gradients * share)
        self._parameters.sub_(momentum * (rate * share))


_STEPS = {
    "adam": LaneOptimizer._adam,
    "adamw": LaneOptimizer._adamw,
    "nadam": LaneOptimizer._nadam,
    "radam": LaneOptimizer._radam,
    "rmsprop": LaneOptimizer._rmsprop,
    "sgd": LaneOptimizer._sgd,
}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    (group,) = optimizer.param_groups
    parameters: list[Tensor] = group["params"]
    return parameters

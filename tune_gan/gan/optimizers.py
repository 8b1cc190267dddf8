"""The optimizers of torch as a configuration names them, and their steps."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from tune_gan.config import GanConfig


def _untraced(optimizer: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return a class of optimizer whose methods do not import the tracer of ``torch.compile``.

    Torch wraps them to tell that tracer to leave them alone, and imports it for that on their first
    call, which takes two seconds and more of each process; nothing is compiled here.
    """
    wrapped = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in wrapped}
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    methods["_accelerator_graph_capture_health_check"] = _check_capture
    return type(optimizer.__name__, (optimizer,), {**methods, "step": step})


def _check_capture(self: torch.optim.Optimizer) -> None:
    """Do what torch does before each step, but on a CPU, where it would make a context on a GPU."""
    if self.param_groups[0]["params"][0].device.type != "cpu":
        torch.optim.Optimizer._accelerator_graph_capture_health_check(self)


_CLASSES = {
    "adam": _untraced(torch.optim.Adam),
    "adamw": _untraced(torch.optim.AdamW),
    "nadam": _untraced(torch.optim.NAdam),
    "radam": _untraced(torch.optim.RAdam),
    "rmsprop": _untraced(torch.optim.RMSprop),
    "sgd": _untraced(torch.optim.SGD),
}


def is_capturable(config: GanConfig) -> bool:
    """Return whether a CUDA graph can hold a step of a configuration's optimizer."""
    # RAdam's formula wants more digits than it has there.
    return config.optimizer != "radam"


def make_optimizer(
    config: GanConfig, network: nn.Module, learning_rate: float
) -> torch.optim.Optimizer:
    """Return the configuration's optimizer of a network's parameters."""
    parameters = list(network.parameters())
    make = _CLASSES[config.optimizer]
    if config.optimizer == "sgd":
        return make(parameters, lr=learning_rate, momentum=config.beta1)
    # What counts its steps has to count them on the device, where a graph of it can.
    in_graph = parameters[0].device.type == "cuda" and is_capturable(config)
    capturable = {"capturable": True} if in_graph else {}
    if config.optimizer == "rmsprop":
        return make(
            parameters, lr=learning_rate, alpha=config.beta2, momentum=config.beta1, **capturable
        )
    fused = {"fused": True} if config.optimizer in ("adam", "adamw") else {}
    betas = (config.beta1, config.beta2)
    return make(parameters, lr=learning_rate, betas=betas, **fused, **capturable)


def step_of(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """Return what takes a step of an optimizer with the gradients that its parameters then have."""
    on_cpu = optimizer.param_groups[0]["params"][0].device.type == "cpu"
    return (
        _AdamStep(optimizer) if on_cpu and isinstance(optimizer, torch.optim.Adam) else optimizer.step
    )


class _AdamStep:
    """A step of fused Adam or AdamW by torch's functional form.

    It does without the hooks, the profiling and the gathering of state of ``Optimizer.step``, which in
    small networks take half of a step's time. The state stays the optimizer's own.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        (self._group,) = optimizer.param_groups
        self._states: list[list[Tensor]] = []

    @torch.no_grad()
    def __call__(self) -> None:
        parameters = self._group["params"]
        if not self._states:
            # The first step makes the state where none was loaded.
            self._optimizer.step()
            states = [self._optimizer.state[parameter] for parameter in parameters]
            names = ("exp_avg", "exp_avg_sq", "step")
            self._states = [[state[name] for state in states] for name in names]
            return
        averages, squares, steps = self._states
        beta1, beta2 = self._group["betas"]
        gradients = [parameter.grad for parameter in parameters]
        adam(
            parameters,
            gradients,
            averages,
            squares,
            [],
            steps,
            fused=True,
            decoupled_weight_decay=self._group["decoupled_weight_decay"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=self._group["lr"],
            weight_decay=self._group["weight_decay"],
            eps=self._group["eps"],
            maximize=False,
        )

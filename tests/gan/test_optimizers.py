import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tune_gan.config import GanConfig
from tune_gan.gan.optimizers import make_optimizer, step_of

ADAM = {"lr": 0.01, "betas": (0.7, 0.95)}
TORCHS_OWN: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {**ADAM, "fused": True}),
    "adamw": (torch.optim.AdamW, {**ADAM, "fused": True}),
    "nadam": (torch.optim.NAdam, ADAM),
    "radam": (torch.optim.RAdam, ADAM),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.95, "momentum": 0.7}),
    "sgd": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.7}),
}


@pytest.mark.parametrize("name", TORCHS_OWN)
def test_a_step_is_that_of_torch_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    config = GanConfig.parse({"dataset": "digits", "optimizer": name, "beta1": 0.7, "beta2": 0.95})
    ours = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1))
    theirs = copy.deepcopy(ours)
    torchs_own, settings = TORCHS_OWN[name]
    optimizers = [make_optimizer(config, ours, 0.01), torchs_own(theirs.parameters(), **settings)]
    step, samples = step_of(optimizers[0]), torch.randn(6, 4, 5)
    for batch in samples:
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            network(batch).square().mean().backward()
        step()
        optimizers[1].step()
    # Of another one that took up the state, as a resumed run does.
    resumed = make_optimizer(config, ours, 0.01)
    resumed.load_state_dict(optimizers[0].state_dict())
    for take in (step_of(resumed), optimizers[1].step):
        take()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    states = [optimizer.state_dict()["state"] for optimizer in (resumed, optimizers[1])]
    assert states[0].keys() == states[1].keys()
    for index, state in states[0].items():
        assert all(torch.equal(value, states[1][index][key]) for key, value in state.items())


@pytest.mark.parametrize("name", TORCHS_OWN)
def test_a_step_is_kept_out_of_the_gradients(name: str) -> None:
    config = GanConfig.parse({"dataset": "digits", "optimizer": name})
    network = nn.Linear(3, 1)
    optimizer = make_optimizer(config, network, 0.01)
    network(torch.ones(2, 3)).sum().backward()
    with torch.enable_grad():
        optimizer.step()
        assert torch.is_grad_enabled()
    assert all(parameter.is_leaf and parameter.grad_fn is None for parameter in network.parameters())


def test_a_training_does_without_the_tracer_of_torch_compile(tmp_path: Path) -> None:
    """It takes longer to import than such a training does."""
    code = """if True:
        import sys
        from pathlib import Path
        from tune_gan import GanConfig, train
        from tune_gan.gan.lanes.pool import LanePool
        from tune_gan.gan.training import iterate
        for name in sys.argv[1:]:
            values = {"dataset": "circle", "num_iterations": 2, "report_every": 2, "optimizer": name}
            config = GanConfig.parse(values)
            train(config, Path(name))
            list(iterate(config, Path(name) / "checkpoint"))
            pool = LanePool(config, 2)
            lane = pool.join(config)
            while lane not in pool.advance(): pass
            pool.report(lane)
            pool.leave(lane)
        print(" ".join(sys.modules))
    """
    command = [sys.executable, "-c", code, *TORCHS_OWN]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "torch.optim" in ended.stdout.split()
    assert not {"torch._dynamo", "sympy"} & set(ended.stdout.split())

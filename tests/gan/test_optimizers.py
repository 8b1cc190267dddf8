import copy

import pytest
import torch
from torch import nn

from tune_gan.config import GanConfig
from tune_gan.gan.optimizers import make_optimizer, step_of


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_step_is_that_of_torch_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    config = GanConfig.parse({"dataset": "digits", "optimizer": name, "beta1": 0.7, "beta2": 0.95})
    ours = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1))
    theirs = copy.deepcopy(ours)
    optimizers = [make_optimizer(config, network, 0.01) for network in (ours, theirs)]
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

import copy
from typing import Any

import pytest
import torch
from torch import nn

from pd_lightning.module.optimization import parameter_groups, scheduled
from pd_lightning.muon import MuonWithAdamW
from pd_lightning.schedules import WSD


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8))


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, first: int, last: int) -> None:
    for step in range(first, last):
        optimizer.zero_grad()
        ids = torch.arange(20).roll(step)
        (module(ids) - torch.linspace(0, 1, 8)).square().sum().backward()
        optimizer.step()
        scheduler.step()


def test_each_parameter_moves_as_its_own_optimizer_moves_it() -> None:
    one, other = model(), model()
    both = MuonWithAdamW(parameter_groups(one), weight_decay=0.1)
    steps(one, both, scheduled(both, WSD(0.01), 6), 0, 6)
    hidden, *outer = parameter_groups(other)
    muon = torch.optim.Muon([hidden], weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(outer, weight_decay=0.1, betas=(0.9, 0.95))
    schedules = [scheduled(optimizer, WSD(0.01), 6) for optimizer in (muon, adamw)]
    for step in range(6):
        other.zero_grad()
        (other(torch.arange(20).roll(step)) - torch.linspace(0, 1, 8)).square().sum().backward()
        for optimizer, schedule in zip((muon, adamw), schedules, strict=True):
            optimizer.step()
            schedule.step()
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_loaded_state_goes_on_the_same() -> None:
    whole, resumed = model(), model()
    optimizer = MuonWithAdamW(parameter_groups(whole))
    schedule = scheduled(optimizer, WSD(0.01), 6)
    steps(whole, optimizer, schedule, 0, 3)
    weights, state, progress = (copy.deepcopy(x.state_dict()) for x in (whole, optimizer, schedule))
    steps(whole, optimizer, schedule, 3, 6)

    resumed.load_state_dict(weights)
    again = MuonWithAdamW(parameter_groups(resumed))
    schedule = scheduled(again, WSD(0.01), 6)
    again.load_state_dict(state)
    schedule.load_state_dict(progress)
    steps(resumed, again, schedule, 3, 6)
    for mine, its in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_without_hidden_matrices_it_is_the_wrong_optimizer() -> None:
    with pytest.raises(ValueError, match="must have matrices of hidden layers, got none"):
        MuonWithAdamW(parameter_groups(nn.Embedding(3, 2)))

"""Muon, averaged weights, and weights that are taken over."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.optim import Average, Muon, adopt, cosine, orthogonal


def test_orthogonal_updates() -> None:
    """Singular values end near one, for wide and tall matrices."""
    for shape in ((2, 24, 64), (1, 64, 24)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.4
        assert values.max() < 1.4


def test_shipped_weights_are_taken_where_they_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """And it is told when they do not."""
    mine, theirs = nn.Linear(3, 4), nn.Linear(3, 4)
    assert adopt(mine, theirs)
    assert torch.equal(mine.weight, theirs.weight)
    assert not adopt(mine, nn.Linear(3, 5))
    assert "another shape" in capsys.readouterr().out


def test_muon_learns_and_forgets_gradients() -> None:
    """A linear map is fitted; gradients are dropped; the state goes into a checkpoint and back."""
    torch.manual_seed(0)
    net, goal = nn.Linear(16, 16), torch.randn(16, 16)
    optimiser = Muon(net.named_parameters(), muon_rate=0.05, adam_rate=0.05, weight_decay=0)
    losses = []
    for step in range(80):
        x = torch.randn(64, 16)
        loss = (net(x) - x @ goal).pow(2).mean()
        loss.backward()
        optimiser.step(cosine(step / 80, step, warmup=5))
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is None for p in net.parameters())
    resumed = Muon(net.named_parameters(), muon_rate=0.3, adam_rate=0.3)
    resumed.load_state_dict(optimiser.state_dict())
    assert (resumed.muon_rate, resumed.adam_rate) == (0.05, 0.05)  # those that the run began with


def test_muon_leaves_alone_what_is_known() -> None:
    """By the same gradient, what learns gently moves a twentieth as far."""
    net = nn.ModuleDict({"known": nn.Linear(16, 16), "new": nn.Linear(16, 16)})
    optimiser = Muon(net.named_parameters(), 0.1, 0.1, weight_decay=0, gently=("known.",))
    gradient = torch.randn(16, 16)
    before = [layer.weight.detach().clone() for layer in net.values()]
    for layer in net.values():
        layer.weight.grad, layer.bias.grad = gradient.clone(), torch.zeros(16)
    optimiser.step(1.0)
    moves = [layer.weight.detach() - old for layer, old in zip(net.values(), before, strict=True)]
    torch.testing.assert_close(20 * moves[0], moves[1], rtol=1e-3, atol=1e-4)
    assert moves[1].norm() > 0.1


def test_the_average_swaps_both_ways() -> None:
    """Swapping twice changes nothing."""
    parameter = nn.Parameter(torch.zeros(3))
    average = Average([parameter], every=1)
    parameter.data += 1
    average.update()
    average.swap()
    assert 0 <= parameter.data[0] < 1
    average.swap()
    assert parameter.data[0] == 1

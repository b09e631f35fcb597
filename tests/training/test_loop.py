"""Runs that are shared, counted in steps, and gone on with; checkpoints that fit, or do not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from training import diffusion, loop, sharpen
from training.optim import Muon


def together(rank: int, folder: str) -> None:
    """One of two processes of a run: what each learns from is its own."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 16))
    fit = loop.Fit(net, Muon(net.named_parameters(), muon_rate=0.1, adam_rate=0.1))

    def step(index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        fit.learn(net(torch.full((1, 4), 1.0 + rank)).square().mean(), index, fraction)
        return {"drawn": float(rng.random())}

    learner: Any = fit
    learner.step = step
    loop.run(learner, 3, Path(folder) / "run.pt")
    torch.save(net.state_dict(), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_processes_share_a_run(tmp_path: Path) -> None:
    """Two processes take the same steps, by both their gradients; one of them writes the checkpoint."""
    torch.multiprocessing.spawn(together, (str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert int(torch.load(tmp_path / "run.pt", weights_only=True)["step"]) == 3


def test_a_checkpoint_of_another_network_is_told(tmp_path: Path) -> None:
    """Where weights are taken and where a run goes on: which file, and what to do."""

    def fit(width: int) -> loop.Fit:
        net = nn.Linear(width, width)
        return loop.Fit(net, Muon(net.named_parameters(), muon_rate=0.1, adam_rate=0.1))

    path = tmp_path / "judge.pt"
    torch.save({"step": 1, "steps": 2, "curves": [], "learner": fit(16).state_dict()}, path)
    loop.fill(nn.Linear(16, 16), path)
    other: Any = fit(17)
    for take in (lambda: loop.fill(other.network, path), lambda: loop.run(other, 2, path)):
        with pytest.raises(SystemExit, match=r"judge\.pt is of another network: delete it"):
            take()


def test_checkpoints_are_blended(tmp_path: Path) -> None:
    """Two of one network; all else stays as it was."""
    first, last = tmp_path / "first.pt", tmp_path / "last.pt"
    for path, value in ((first, 1.0), (last, 5.0)):
        weights = {"weight": torch.full((2, 2), value), "seen": torch.tensor(int(value))}
        torch.save({"step": 7, "learner": {"weights": weights, "live": {**weights}}}, path)
    loop.blend(last, first, 0.25)
    state = loop.checkpoint(last)
    assert state["learner"]["weights"]["weight"].tolist() == [[2, 2], [2, 2]]
    assert (state["step"], int(state["learner"]["weights"]["seen"])) == (7, 5)
    assert float(state["learner"]["live"]["weight"][0, 0]) == 5
    for other in ({"weight": torch.zeros(3, 3), "seen": torch.tensor(1)}, {}):
        torch.save({"learner": {"weights": other}}, first)
        with pytest.raises(SystemExit, match=r"first\.pt is of another network"):
            loop.blend(last, first, 0.5)


@pytest.mark.parametrize("load", [sharpen.load, diffusion.load])
def test_so_is_one_of_two_networks_or_of_the_study(load: Any, tmp_path: Path) -> None:
    """Whoever reads a checkpoint says which file it is."""
    other = {"weights": {}, "live": {}}
    path = tmp_path / "other.pt"
    torch.save({"learner": {**other, "generator": other, "decoder": other}}, path)
    with pytest.raises(SystemExit, match=r"other\.pt is of another network: delete it"):
        load(path)


def test_minutes_are_told_as_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured without leaving a trace; what is given, or was begun with, comes first."""
    now, slow = [0.0], 1
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    net = nn.Linear(16, 16)
    before = net.weight.detach().clone()
    fit = loop.Fit(net, Muon(net.named_parameters(), muon_rate=0.1, adam_rate=0.1))

    def step(index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        fit.learn(net(torch.ones(2, 16)).square().mean(), index, fraction)
        now[0] += 500 if index < slow else 30
        return {}

    monkeypatch.setattr(fit, "step", step, raising=False)
    learner: Any = fit
    assert loop.budget(learner, tmp_path / "a.pt", None, minutes=3) == 6  # a step takes half a minute
    slow = 15
    assert loop.budget(learner, tmp_path / "a.pt", None, minutes=3, tried=60) == 6
    assert torch.equal(net.weight, before)
    assert loop.budget(learner, tmp_path / "a.pt", 17, minutes=3) == 17
    loop.run(learner, 2, tmp_path / "a.pt")
    assert loop.budget(learner, tmp_path / "a.pt", None, minutes=3) == 2

"""What all trainers share: the Muon optimiser, weight averaging, the schedule."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> tuple[int, int]:
    """This process's rank, and the world's size: how many share this run."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


class Muon:
    """Muon for matrices and convolutions (orthogonalised momentum, Keller Jordan 2024), AdamW for everything else.

    `torch.optim.Muon` takes 2-d parameters one by one; here those of the same shape go through the Newton-Schulz
    iteration as one batch, which on a CPU is what makes it affordable.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        muon_rate: float,
        adam_rate: float,
        weight_decay: float = 0.01,
        exclude: tuple[str, ...] = (),
        gently: tuple[str, ...] = (),
    ) -> None:
        """Parameters whose name holds a string of `exclude`, vectors, and thin matrices go to AdamW.

        Of the others, those whose name begins with one of `gently` learn at a twentieth of the rate: they know.
        """
        groups: dict[tuple[float, tuple[int, ...]], list[nn.Parameter]] = defaultdict(list)
        rest: list[nn.Parameter] = []
        for name, parameter in named:
            wide = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= 16
            if wide and not any(word in name for word in exclude):
                share = 0.05 if name.startswith(gently) else 1.0
                groups[share, tuple(parameter.shape)].append(parameter)
            else:
                rest.append(parameter)
        self.groups, self.shares = list(groups.values()), [share for share, _ in groups]
        self.momentum = [
            torch.zeros(len(g), g[0].shape[0], g[0][0].numel(), device=g[0].device) for g in self.groups
        ]
        self.adam = torch.optim.AdamW(
            rest, lr=adam_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )
        self.muon_rate, self.adam_rate, self.weight_decay = muon_rate, adam_rate, weight_decay
        self.parameters = [p for g in self.groups for p in g] + rest

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Apply the gradients at `factor` times the base learning rates, and drop them."""
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * factor
        self.adam.step()
        count = 0
        for parameters, share, momentum in zip(self.groups, self.shares, self.momentum, strict=True):
            rate = self.muon_rate * factor * share
            grad = torch.stack([p.grad.reshape(p.shape[0], -1) for p in parameters if p.grad is not None])
            momentum.lerp_(grad, 0.05)
            update = together(grad.lerp(momentum, 0.95), count)
            count += len(parameters)
            # The scale that makes the update's size that of AdamW's (Moonlight, arXiv 2502.16982).
            update *= 0.2 * math.sqrt(max(update.shape[1:]))
            weights, changes = tuple[Tensor, ...](parameters), tuple(update.view(-1, *parameters[0].shape))
            torch._foreach_mul_(weights, 1 - rate * self.weight_decay)
            torch._foreach_add_(weights, changes, alpha=-rate)
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The moments and the rates, for a checkpoint: a run keeps the rates that it began with."""
        rates = [self.muon_rate, self.adam_rate]
        return {"adam": self.adam.state_dict(), "momentum": self.momentum, "rates": rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.muon_rate, self.adam_rate = state["rates"]
        self.adam.load_state_dict(state["adam"])
        for mine, saved in zip(self.momentum, state["momentum"], strict=True):
            mine.copy_(saved)


def orthogonal(grad: Tensor) -> Tensor:
    """The nearest orthogonal matrices to (n, rows, columns), roughly: five quintic Newton-Schulz iterations."""
    tall = grad.shape[1] > grad.shape[2]
    x = grad.mT if tall else grad
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(5):
        a = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    wide: Tensor = x.mT if tall else x
    return wide.float()


def together(grad: Tensor, count: int) -> Tensor:
    """`orthogonal` of (n, rows, columns) that all processes have alike, each doing every `size`-th matrix.

    `count` matrices came before these: without it all shapes that stand alone would be the first process's.
    """
    rank, size = world()
    if size == 1:
        return orthogonal(grad)
    mine = slice((rank - count) % size, None, size)
    whole = torch.zeros_like(grad, dtype=torch.bfloat16)
    whole[mine] = orthogonal(grad[mine])
    dist.all_reduce(whole)
    return whole.float()


class Average:
    """An exponential moving average of parameters, updated every few steps."""

    def __init__(self, parameters: list[nn.Parameter], half_life: float = 250.0, every: int = 4) -> None:
        """`half_life` in steps; younger runs average over a fixed fraction of their length."""
        self.live, self.every, self.half_life, self.steps = parameters, every, half_life, 0
        self.mean = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Count a step, and mix the live weights in when it is time."""
        self.steps += 1
        if self.steps % self.every == 0:
            keep = min(0.5 ** (self.every / self.half_life), self.steps / (self.steps + 10 * self.every))
            torch._foreach_lerp_(self.mean, [p.data for p in self.live], 1 - keep)

    def state_dict(self) -> dict[str, Any]:
        """The mean, for a checkpoint."""
        return {"mean": self.mean, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the mean back."""
        self.steps = int(state["steps"])
        for mine, saved in zip(self.mean, state["mean"], strict=True):
            mine.copy_(saved)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged weights; call again to undo."""
        for parameter, mean in zip(self.live, self.mean, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(held)


def cosine(fraction: float, step: int, warmup: int = 50, floor: float = 0.02) -> float:
    """Learning-rate factor: linear over `warmup` steps, then a half cosine down to `floor`."""
    return min(1.0, (step + 1) / warmup) * (
        floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
    )


def adopt(network: nn.Module, shipped: nn.Module) -> bool:
    """Give a network the shipped weights, if they fit; and say so."""
    mine, theirs = ({k: v.shape for k, v in n.state_dict().items()} for n in (network, shipped))
    if mine != theirs:
        print("the shipped weights are of another shape: starting from nothing", flush=True)
        return False
    network.load_state_dict(shipped.state_dict())
    print("starting from the shipped weights", flush=True)
    return True


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """`torch.save`, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)

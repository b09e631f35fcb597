"""The loop that everything here is trained by: it counts steps, and resumes to the bit.

Step `i` of a run draws everything random from (seed, i), so a run that was killed and resumed gives the same
weights as one that was not, on a CPU with a fixed number of threads.

Several processes can share a run (`torchrun --standalone --nproc-per-node 2 -m training generator`): each learns
from a batch of its own, all take the step of their mean gradient. On a CPU that is twice as fast as two threads.
"""

from __future__ import annotations

import contextlib
import copy
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from training.optim import Average, Muon, cosine, save_atomically, world

AVERAGED = 10
"""Steps that one point of the loss curves stands for."""


class Learner(Protocol):
    """What is trained, one step at a time."""

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """Learn once, `fraction` of the way through the run; losses by name, for the curves."""

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments: everything that the next step depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""

    def sheet(self) -> Image.Image | None:
        """What it can do by now, to look at; None for whoever draws nothing."""


def all_reduce_mean(tensors: list[Tensor]) -> None:
    """Give every process the mean of all processes' tensors, in place; by one message."""
    if world()[1] > 1:
        whole = torch.cat([tensor.flatten() for tensor in tensors]) / world()[1]
        dist.all_reduce(whole)
        for tensor, mean in zip(tensors, torch.split(whole, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


class Fit:
    """A network, its optimiser and its averaged weights: most of what a learner is."""

    def __init__(
        self, network: nn.Module, optimiser: Muon, half_life: float = 250.0, warmup: int = 50
    ) -> None:
        """`network` is trained in place, in as much as `optimiser` has its parameters.

        `half_life` of the averaged weights and `warmup` of the learning rates are in steps.
        """
        self.network, self.optimiser, self.warmup = network, optimiser, warmup
        self.average = Average(optimiser.parameters, half_life)

    def learn(self, loss: Tensor, index: int, fraction: float) -> None:
        """One step down a loss, by the cosine schedule."""
        torch.autograd.backward(loss)
        self.stride(index, fraction)

    def stride(self, index: int, fraction: float) -> None:
        """One step by the gradients that are there, in the mean of all processes."""
        all_reduce_mean(
            [parameter.grad for parameter in self.optimiser.parameters if parameter.grad is not None]
        )
        torch.nn.utils.clip_grad_norm_(self.optimiser.parameters, 1.0)
        self.optimiser.step(cosine(fraction, index, self.warmup))
        self.average.update()

    def averaged(self) -> dict[str, Tensor]:
        """The network's state with its averaged weights."""
        self.average.swap()
        weights = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.average.swap()
        return weights

    def state_dict(self) -> dict[str, Any]:
        """See `Learner`; `weights` are the averaged ones, for whoever uses the network."""
        return {
            "weights": self.averaged(),
            "live": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Learner`."""
        self.network.load_state_dict(state["live"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])

    def sheet(self) -> Image.Image | None:
        """See `Learner`."""
        return None


def checkpoint(path: Path) -> dict[str, Any]:
    """What a run has written to `path`: step, steps, curves, learner. SystemExit if it is not there."""
    if not path.exists():
        raise SystemExit(
            f"{path} is not there yet: see `python -m training --help` for the order of commands"
        )
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """SystemExit where what is taken from the checkpoint at `path` does not fit."""
    try:
        yield
    except RuntimeError as error:
        raise SystemExit(f"{path} is of another network: delete it to begin anew\n{error}") from error


def fill(network: nn.Module, path: Path) -> None:
    """Give a network the averaged weights in the checkpoint of a `Fit`. SystemExit if it is not there or other."""
    with fitting(path):
        network.load_state_dict(checkpoint(path)["learner"]["weights"])


def blend(path: Path, earlier: Path, share: float) -> None:
    """Take the averaged weights in the checkpoint at `path` back to `share` of their way from those at `earlier`.

    On the way from where a run began to where it ended there is often a better network than at either end (Wortsman
    et al., arXiv 2109.01903). SystemExit if the two are not of one network, or one is not there.
    """
    state, before = checkpoint(path), checkpoint(earlier)["learner"]["weights"]
    weights = state["learner"]["weights"]
    with fitting(earlier):
        if before.keys() != weights.keys():
            raise RuntimeError(f"its weights have other names than those in {path}")
        weights |= {
            name: torch.lerp(before[name], weight, share)
            for name, weight in weights.items()
            if weight.is_floating_point()
        }
    save_atomically(state, path)


def budget(learner: Learner, path: Path, steps: int | None, minutes: float, tried: int = 4) -> int:
    """How many steps a run has: as given, or as it began with, or what `minutes` hold on this machine.

    The last is measured, on the last three quarters of `tried` steps, so it differs from run to run; the number is
    told, and given as `steps` repeats the run.
    """
    if steps is not None:
        return steps
    if path.exists():
        return int(checkpoint(path)["steps"])
    before, spans = copy.deepcopy(learner.state_dict()), list[float]()
    for index in range(tried):
        began = time.perf_counter()
        learner.step(index, 0.0, np.random.default_rng(index))
        spans.append(time.perf_counter() - began)
    learner.load_state_dict(before)
    span = torch.tensor([statistics.median(spans[-3 * tried // 4 :])])
    all_reduce_mean([span])
    found = max(1, round(60 * minutes / float(span)))
    tqdm.write(f"{path.stem}: {minutes:g} minutes are {found} steps here (--steps {found} repeats this run)")
    return found


def run(
    learner: Learner, steps: int, path: Path, seed: int = 0, save_every: int = 100, sheet_every: int = 200
) -> list[dict[str, float]]:
    """Train to `steps` from the checkpoint at `path` or from the start; the loss curves, a point per 10 steps.

    Beside the checkpoint lie `NAME.png`, the curves, and `NAME-STEP.webp`, the sheets.
    """
    rank, size = world()
    start, curves, recent = 0, list[dict[str, float]](), list[dict[str, float]]()
    if path.exists():
        state = checkpoint(path)
        start, curves = int(state["step"]), state["curves"]
        with fitting(path):
            learner.load_state_dict(state["learner"])
        if start:
            over = f", the last; --steps {2 * start}, say, would go on" if start >= steps else ""
            tqdm.write(f"{path.stem}: resumed at step {start}{over}")
    bar = tqdm(
        range(start, steps),
        initial=start,
        total=steps,
        desc=path.stem,
        unit="step",
        mininterval=5,
        disable=rank > 0,
    )
    for index in bar:
        torch.manual_seed((seed * 1_000_003 + index) * size + rank)
        recent.append(
            learner.step(
                index,
                index / steps,
                np.random.default_rng([seed, index] if size == 1 else [seed, index, rank]),
            )
        )
        done = index + 1
        if done % AVERAGED == 0 or done == steps:
            mean = {key: sum(loss[key] for loss in recent) / len(recent) for key in recent[0]}
            bar.set_postfix({key: f"{value:.3g}" for key, value in mean.items()}, refresh=False)
            curves.append({"step": done, **mean})
            recent.clear()
        # Only where a point of the curves ends, so that none is lost.
        if rank == 0 and ((done % save_every == 0 and done % AVERAGED == 0) or done == steps):
            state = {"step": done, "steps": steps, "curves": curves, "learner": learner.state_dict()}
            save_atomically(state, path)
            plot(curves, path.with_suffix(".png"))
        if rank == 0 and (done % sheet_every == 0 or done == steps):
            page = learner.sheet()
            if page is not None:
                page.save(path.with_name(f"{path.stem}-{done:05d}.webp"), quality=80)
    if size > 1:
        dist.barrier()  # nobody reads the last checkpoint before it is written
    return curves


def train(
    learner: Learner,
    path: Path,
    steps: int | None,
    minutes: float,
    seed: int,
    resume: bool = True,
    device: str = "cpu",
) -> None:
    """A run as the command line asks for one: of `steps`, or as many as `minutes` hold (`budget`).

    It goes on from the checkpoint at `path`, or without `resume` begins anew. On a card steps are short but
    for the first ones: there it is measured for longer, and stops less often for checkpoints and sheets.
    """
    if not resume:
        path.unlink(missing_ok=True)
    tried, every = (60, 500) if device != "cpu" else (4, 100)
    run(learner, budget(learner, path, steps, minutes, tried), path, seed, every, 2 * every)


def plot(curves: list[dict[str, float]], path: Path) -> None:
    """Every loss over the steps, each on an axis of its own."""
    from matplotlib.figure import Figure

    names = [name for name in (curves[0] if curves else {}) if name != "step"]
    if not names:
        return
    figure = Figure(figsize=(8, 1.8 * len(names)), layout="constrained")
    for axis, name in zip(np.atleast_1d(figure.subplots(len(names), sharex=True)), names, strict=True):
        axis.plot([point["step"] for point in curves], [point[name] for point in curves], linewidth=1)
        axis.set_ylabel(name)
    figure.savefig(path, dpi=80)

"""The loop that the judge, the teacher and the students share: it counts steps, and resumes to the bit.

Step `i` of a run draws everything random from (seed, i), so a run that was killed and resumed gives the same
weights as one that was not, on a CPU with a fixed number of threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from training.optim import save_atomically

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


def run(
    learner: Learner, steps: int, path: Path, seed: int = 0, save_every: int = 100, sheet_every: int = 200
) -> list[dict[str, float]]:
    """Train to `steps` from the checkpoint at `path` or from the start; the loss curves, a point per 10 steps.

    Beside the checkpoint lie `NAME.png`, the curves, and `NAME-STEP.webp`, the sheets.
    """
    start, curves, recent = 0, list[dict[str, float]](), list[dict[str, float]]()
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        start, curves = int(state["step"]), state["curves"]
        learner.load_state_dict(state["learner"])
        if start:
            tqdm.write(f"{path.stem}: resumed at step {start}")
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=path.stem, unit="step", mininterval=5)
    for index in bar:
        torch.manual_seed(seed * 1_000_003 + index)
        recent.append(learner.step(index, index / steps, np.random.default_rng([seed, index])))
        done = index + 1
        if done % AVERAGED == 0:
            mean = {key: sum(loss[key] for loss in recent) / len(recent) for key in recent[0]}
            bar.set_postfix({key: f"{value:.3g}" for key, value in mean.items()}, refresh=False)
            curves.append({"step": done, **mean})
            recent.clear()
        # Only where a point of the curves ends, so that none is lost.
        if (done % save_every == 0 and done % AVERAGED == 0) or done == steps:
            save_atomically({"step": done, "curves": curves, "learner": learner.state_dict()}, path)
            plot(curves, path.with_suffix(".png"))
        if done % sheet_every == 0 or done == steps:
            page = learner.sheet()
            if page is not None:
                page.save(path.with_name(f"{path.stem}-{done:05d}.webp"), quality=80)
    return curves


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

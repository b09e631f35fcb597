"""A sampler is a table, read off diffusers' own scheduler.

Every few-step sampler served here is linear. With the network's output e and fresh noise z, one step is

    x' = a*x + b*e + c*z + m*p        (the network sees d*x at timestep t)

and g*x + h*e is the picture so far, for previews. p is that of the step before, which a two-step solver (DPM++ 2M)
holds; for all others m is 0. No formula stands in this file: `read_table` feeds `step()`
unit inputs, takes the coefficients from what comes out, and checks at random points that the scheduler really
is linear in these. Longer memory (UniPC), clipping and thresholding fail that check.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import diffusers
import torch

from onestroke.errors import InvalidRequest, ModelError

SCHEDULERS = {
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "ddim": "DDIMScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
}
"""Sampler names and the diffusers class that each is read off."""

LINEARITY = 1e-5
"""How far a scheduler may be from its own table at random points, relative to the largest term there."""

_POINTS = 64


@dataclass(frozen=True, slots=True)
class Step:
    """One step: x' = a*x + b*e + c*z + m*p, network input d*x at timestep t, preview g*x + h*e, the last one p."""

    t: float
    d: float
    a: float
    b: float
    c: float
    g: float
    h: float
    m: float = 0.0


@dataclass(frozen=True, slots=True)
class SamplerTable:
    """A sampler over its steps. Sampling starts from x = picture * x0 + start * z, z of unit variance.

    Text-to-image has no picture x0.
    """

    sampler: str
    start: float
    steps: tuple[Step, ...]
    picture: float = 0.0

    def __len__(self) -> int:
        return len(self.steps)


def scheduler_key(config: Mapping[str, Any]) -> str:
    """A scheduler's configuration as text: hashable, the same for equal configurations."""
    return json.dumps(dict(config), sort_keys=True, default=list)


def make_scheduler(config: Mapping[str, Any], sampler: str) -> Any:
    """The diffusers scheduler that serves `sampler` on a model whose scheduler has `config`.

    Latents are not bounded by one, so clipping (on by default in DDIM) is off unless the model asks for it.
    Raises InvalidRequest (field "sampler") for a name that is not in SCHEDULERS.
    """
    if sampler not in SCHEDULERS:
        raise InvalidRequest(f"unknown sampler {sampler!r}: give one of {', '.join(SCHEDULERS)}", "sampler")
    kind = getattr(diffusers, SCHEDULERS[sampler])
    expected = set(inspect.signature(kind.__init__).parameters)
    if "use_karras_sigmas" in expected:
        # DPM++ 2M reads these off its configuration, but does not declare them.
        expected |= {"sigma_min", "sigma_max"}
    kept = {name: value for name, value in config.items() if name in expected}
    if "clip_sample" in expected:
        kept.setdefault("clip_sample", False)
    return kind.from_config(kept)


@lru_cache(maxsize=512)
def sampler_table(
    config: str,
    sampler: str,
    steps: int,
    timesteps: tuple[int, ...] | None = None,
    last: int | None = None,
) -> SamplerTable:
    """The table of `sampler` for a model whose scheduler configuration is `config` (see `scheduler_key`).

    `last` is how many of the steps image-to-image takes, the last ones; None for text-to-image.

    Raises InvalidRequest naming "sampler", "steps" or "timesteps" where diffusers cannot sample that way.
    """
    scheduler = make_scheduler(json.loads(config), sampler)
    _check_timesteps(scheduler, sampler, steps, timesteps)
    try:
        if timesteps is None:
            scheduler.set_timesteps(steps)
        else:
            scheduler.set_timesteps(timesteps=list(timesteps))
    except ValueError as error:
        field = "steps" if timesteps is None else "timesteps"
        raise InvalidRequest(f"{sampler}: {error}", field) from error
    try:
        return read_table(scheduler, sampler, last)
    except ModelError as error:
        message = f"{sampler} does not serve this model ({error.message}): leave it out, for the model's own"
        raise InvalidRequest(message, "sampler") from error


def _check_timesteps(scheduler: Any, sampler: str, steps: int, timesteps: tuple[int, ...] | None) -> None:
    if steps < 1:
        raise InvalidRequest(f"steps must be at least 1, not {steps}", "steps")
    if timesteps is None:
        return
    if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
        raise InvalidRequest(f"{sampler} takes no custom timesteps; euler and lcm do", "timesteps")
    if len(timesteps) != steps:
        raise InvalidRequest(f"{len(timesteps)} timesteps were given for {steps} steps", "timesteps")
    last = int(scheduler.config.num_train_timesteps)
    falling = all(later < earlier for earlier, later in itertools.pairwise(timesteps))
    if not falling or timesteps[0] >= last or timesteps[-1] < 0:
        raise InvalidRequest(f"timesteps must fall, within 0 to {last - 1}: {list(timesteps)}", "timesteps")


def read_table(scheduler: Any, sampler: str = "", last: int | None = None) -> SamplerTable:
    """Read `scheduler`, whose timesteps are set, as a table; the `last` steps from a picture where that is given.

    Raises ModelError that names the scheduler's class when a step is not linear in its sample, output and
    noise, or is not finite.
    """
    name = type(scheduler).__name__
    begin = 0 if last is None else len(scheduler.timesteps) - last
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    probe = torch.Generator().manual_seed(0)
    noise = torch.Generator().manual_seed(1)
    picture, start = 0.0, float(scheduler.init_noise_sigma)
    if last is not None:
        picture, start = _read_start(scheduler, scheduler.timesteps[begin : begin + 1], probe)
    steps: list[Step] = []
    idle_draw = False
    held = torch.zeros(_POINTS, dtype=torch.float64)
    for t in scheduler.timesteps[begin:]:
        before = noise.get_state()
        try:
            step, held = _read_step(scheduler, t, held, probe, noise)
        except (
            NotImplementedError, ValueError, TypeError, AttributeError, IndexError, RuntimeError
        ) as error:  # fmt: skip
            raise ModelError(f"{name} cannot be read as a table: {error}") from error
        if idle_draw and step.c:
            raise ModelError(f"{name} draws noise that it does not use before noise that it does")
        idle_draw = idle_draw or (not step.c and not torch.equal(before, noise.get_state()))
        steps.append(step)
    return SamplerTable(sampler, start, tuple(steps), picture)


def _read_start(scheduler: Any, t: torch.Tensor, probe: torch.Generator) -> tuple[float, float]:
    """How much of the picture and of the noise `add_noise` puts into the start. Raises ModelError."""
    x0, z = (torch.randn(_POINTS, generator=probe).double() for _ in range(2))
    x0[:2], z[:2] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    shape = (1, 1, 8, _POINTS // 8)
    found = scheduler.add_noise(x0.view(shape), z.view(shape), t).flatten().double()
    picture, start = float(found[0]), float(found[1])
    try:
        _check_linear(found, (picture, x0), (start, z))
    except ValueError as error:
        raise ModelError(f"{type(scheduler).__name__} cannot start from a picture: {error}") from error
    return picture, start


def _read_step(
    scheduler: Any, t: torch.Tensor, held: torch.Tensor, probe: torch.Generator, noise: torch.Generator
) -> tuple[Step, torch.Tensor]:
    """Feed one `step()` the points (x, e) = (0, 0), (1, 0), (0, 1) and random ones, all as one tensor.

    `held` is the preview of the step before; returns this one's. Only one of the four points read here holds
    anything, and only one of the four that the next step reads is given anything to hold. The noise that it adds is
    known from a copy of its generator. Values are float32 held in float64, since Euler casts its sample to float32.
    """
    x = (torch.randn(_POINTS, generator=probe) * 8).double()
    e = (torch.randn(_POINTS, generator=probe) * 8).double()
    none, of_x, of_e, of_held = range(4) if not held[:3].any() else range(4, 8)
    x[:8] = e[:8] = 0.0
    x[of_x] = e[of_e] = 1.0
    for_next = (of_held + 4) % 8
    x[for_next], e[for_next] = 1.0, -1.0
    shape = (1, 1, 8, _POINTS // 8)
    twin = torch.Generator()
    twin.set_state(noise.get_state())
    z = torch.randn(shape, generator=twin, dtype=torch.float64).flatten()

    scaled = scheduler.scale_model_input(x.view(shape), t).flatten().double()
    takes_noise = "generator" in inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {"generator": noise} if takes_noise else {}
    if "eta" in inspect.signature(scheduler.step).parameters:
        options["eta"] = 0.0  # as the diffusers pipelines call it
    made = scheduler.step(e.view(shape), t, x.view(shape), return_dict=False, **options)
    # Solvers that hold their last previews return the sample alone.
    after, preview = (
        part.flatten().double()
        for part in (made[0], made[1] if len(made) > 1 else scheduler.model_outputs[-1])
    )

    c = float(after[none] / z[none])
    a, b = float(after[of_x] - c * z[of_x]), float(after[of_e] - c * z[of_e])
    m = float((after[of_held] - c * z[of_held]) / held[of_held]) if held[of_held] else 0.0
    d, g, h = float(scaled[of_x]), float(preview[of_x]), float(preview[of_e])
    _check_linear(after, (a, x), (b, e), (c, z), (m, held))
    _check_linear(scaled, (d, x))
    _check_linear(preview, (g, x), (h, e))
    return Step(float(t), d, a, b, c, g, h, m), preview


def _check_linear(found: torch.Tensor, *terms: tuple[float, torch.Tensor]) -> None:
    parts = torch.stack([factor * values for factor, values in terms])
    off = float((found - parts.sum(0)).abs().max())
    scale = max(1.0, float(parts.abs().max()))
    if not off <= LINEARITY * scale:  # not <=: a NaN must fail too
        raise ValueError(f"its step is not linear (off by {off:.3g} of {scale:.3g})")

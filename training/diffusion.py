"""The small world in which a teacher and its students are compared, and its diffusion process.

64 of the things, in their own colours, on all backgrounds but the held-out ones. Unlike the shipped model's
world, a picture is *not* settled by prompt, crop and noise: each thing looks left or right by chance, and the
wash of the background is drawn by itself. So there is a distribution to learn, and regression in one step can
only draw the mean of it, both ways at once: what teachers, adversarial losses and score distillation are for.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import EulerAncestralDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from training import codes, decoder, generator
from training.batches import Batch, Batches
from training.codes import HELD_BACKGROUNDS, WHITE, Target
from training.concepts import COLOUR_NAMES, INDEX
from training.data import load_art
from training.latents import CHANNELS, CROPS, EDGE, GRID, PLACED, Composer, Encoder, grounds, washes
from training.loop import checkpoint, fitting
from training.optim import Average

_NAMES = """
cat, dog, apple, rocket, heart, house, smiling face, robot, pizza, car, star, tree, ghost, unicorn, flower, rainbow,
banana, guitar, fish, panda, lion, fox, rabbit, bird, penguin, owl, monkey, elephant, frog, pig, horse, turtle,
octopus, whale, dinosaur, butterfly, snail, flamingo, strawberry, watermelon, pineapple, carrot, mushroom, burger,
fries, ice cream, cake, donut, coffee, laughing face, cool face, alien, skull, pumpkin, snowman, moon, fire, cactus,
bicycle, airplane, boat, castle, balloon, umbrella
"""
THINGS: tuple[int, ...] = tuple(INDEX[name.strip()] for name in _NAMES.replace("\n", " ").split(","))
"""The 64 things, chosen to look different from one another; about two thirds of them have a left and a right."""
LAST = 999
STUDENT_STEPS = (999, 749, 499, 249)
"""Where one to four steps stand, SDXL Turbo's trailing ones (1: the first; 2: 999 and 499)."""


def scheduler() -> EulerAncestralDiscreteScheduler:
    """SDXL Turbo's sampler with v-prediction, by the generator's levels, but for zero terminal SNR.

    (Lin et al., arXiv 2305.08891: step 999 is all noise.)
    """
    return EulerAncestralDiscreteScheduler(
        **generator.NOISE,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        rescale_betas_zero_snr=True,
    )


class Schedule:
    """x_t = alpha_t x_0 + sigma_t eps, v = alpha_t eps - sigma_t x_0 (Salimans & Ho, arXiv 2202.00512, app. D)."""

    def __init__(self) -> None:
        """Read the levels off the sampler; both are (1000, 1, 1, 1)."""
        kept: Tensor = scheduler().alphas_cumprod.view(-1, 1, 1, 1)
        self.alpha, self.sigma = kept.sqrt(), (1 - kept).sqrt()

    def noisy(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t for steps t (B,)."""
        return self.alpha[t] * x0 + self.sigma[t] * noise

    def velocity(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is to say at x_t."""
        return self.alpha[t] * noise - self.sigma[t] * x0

    def x0(self, v: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The clean latents that a v-prediction at x_t implies."""
        return self.alpha[t] * x - self.sigma[t] * v

    def noise(self, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The noise that is in x_t besides x_0."""
        return (x - self.alpha[t] * x0) / self.sigma[t]


SCHEDULE = Schedule()


def conditions(code: Tensor, crops: Tensor) -> dict[str, Any]:
    """The UNet's keyword arguments for pooled codes (B, CODE) of one thing each and crop corners (B, 2)."""
    edge = torch.full_like(crops, EDGE)
    added = {"text_embeds": code, "time_ids": torch.cat([edge, crops, edge], 1)}
    return {"encoder_hidden_states": codes.alone(len(code)).to(code), "added_cond_kwargs": added}


def velocity(unet: UNet2DConditionModel, x: Tensor, t: Tensor, code: Tensor, crops: Tensor) -> Tensor:
    """The network's v (B, 24, 32, 32) at x_t, steps t (B,)."""
    with torch.autocast(x.device.type, torch.bfloat16):
        v = unet(x.contiguous(memory_format=torch.channels_last), t, **conditions(code, crops)).sample
    said: Tensor = v.float()
    return said


def denoise(unet: UNet2DConditionModel, x: Tensor, t: Tensor, code: Tensor, crops: Tensor) -> Tensor:
    """The clean latents that the network sees in x_t at steps t (B,)."""
    return SCHEDULE.x0(velocity(unet, x, t, code, crops), x, t)


def features(unet: UNet2DConditionModel, x: Tensor, t: Tensor, code: Tensor, crops: Tensor) -> list[Tensor]:
    """What the UNet's way down sees in x_t: maps (B, C, h, w) at 32, 16, 8 and 4 pixels, and its middle at 2.

    A quarter of a whole forward.
    """
    given = conditions(code, crops)
    with torch.autocast(x.device.type, torch.bfloat16):
        embedded = unet.time_embedding(unet.get_time_embed(sample=x, timestep=t))
        embedded = embedded + unet.get_aug_embed(emb=embedded, **given)
        hidden = unet.conv_in(x.contiguous(memory_format=torch.channels_last))
        maps = []
        for block in unet.down_blocks:
            hidden, states = block(hidden_states=hidden, temb=embedded)
            maps.append(states[0])
        middle = unet.mid_block(hidden, embedded, encoder_hidden_states=given["encoder_hidden_states"])
        return [each.float() for each in (*maps[:4], middle)]


def fresh(
    unet: UNet2DConditionModel, noise: Tensor, code: Tensor, crops: Tensor, steps: tuple[int, ...]
) -> Tensor:
    """A student's drawing: predict the clean latents, add *fresh* noise down to the next step, and so on."""
    x = noise
    for t, following in itertools.zip_longest(steps, steps[1:]):
        at = torch.full((len(x),), t)
        made = denoise(unet, x, at, code, crops)
        if following is not None:
            x = SCHEDULE.noisy(made, torch.randn_like(made), torch.full_like(at, following))
    return made


def ddim(unet: UNet2DConditionModel, noise: Tensor, code: Tensor, crops: Tensor, steps: int) -> Tensor:
    """A teacher's drawing (Song et al., arXiv 2010.02502, equation 12 with eta 0), at trailing steps."""
    x = noise
    times = [round((steps - i) * (LAST + 1) / steps) - 1 for i in range(steps)]
    for t, following in itertools.zip_longest(times, times[1:]):
        at = torch.full((len(x),), t)
        made = denoise(unet, x, at, code, crops)
        if following is not None:
            x = SCHEDULE.noisy(made, SCHEDULE.noise(made, x, at), torch.full_like(at, following))
    return made


def target(rng: np.random.Generator) -> Target:
    """A training target: a third on white, the rest on any background that is not held out for the thing."""
    thing = int(rng.choice(THINGS))
    background = WHITE if rng.random() < 0.3 else int(rng.integers(len(COLOUR_NAMES)))
    while background in HELD_BACKGROUNDS[thing]:
        background = int(rng.integers(len(COLOUR_NAMES)))
    return Target(thing, None, background)


class World:
    """Draws pictures of the small world as latents."""

    def __init__(self, composer: Composer | None = None, encoder: Encoder | None = None) -> None:
        """From a composer's art, or the rendered art at the generator's size."""
        self.latents = Batches(composer or Composer(*load_art((PLACED,))), encoder or Encoder.load()).latents

    def draw(self, size: int, rng: np.random.Generator) -> Batch:
        """`size` pictures: noise, code, crop and clean latents, all by chance."""
        targets = [target(rng) for _ in range(size)]
        crops = torch.from_numpy(rng.choice(CROPS, (size, 2)))
        return self.compose(targets, crops, torch.from_numpy(rng.random(size) < 0.5))

    def compose(self, targets: list[Target], crops: Tensor, mirrored: Tensor) -> Batch:
        """Given pictures, with washes by chance (torch's own)."""
        size = len(targets)
        code = codes.encode(targets) + 0.03 * torch.randn(size, codes.CODE)
        palette = grounds(targets)
        return Batch(
            torch.randn(size, CHANNELS, GRID, GRID),
            code,
            codes.alone(size),
            crops,
            self.latents(targets, crops.tolist(), noisy_washes(palette), mirrored.tolist()),
        )


def noisy_washes(backgrounds: Tensor) -> Tensor:
    """Backgrounds (B, 3) as watercolour (B, 3, 32, 32), by chance."""
    return washes(torch.randn(len(backgrounds), 3, GRID, GRID), backgrounds)


class Drawer:
    """What the teacher and all students have: a UNet that starts from given weights, its averaging, its sheet."""

    few: tuple[int, ...] = (1, 4)
    """Numbers of steps that a sheet shows."""

    def __init__(self, unet: UNet2DConditionModel, world: World, batch: int) -> None:
        """`unet` is trained in place, in batches of `batch` pictures of `world`."""
        self.unet, self.world, self.batch = unet.train(), world, batch
        self.average = Average(list(unet.parameters()), half_life=60)

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Learner`."""
        return {"live": self.unet.state_dict(), "average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `loop.Learner`."""
        self.unet.load_state_dict(state["live"])
        self.average.load_state_dict(state["average"])

    @torch.no_grad()
    def paint(self, noise: Tensor, code: Tensor, crops: Tensor, steps: int) -> Tensor:
        """Clean latents in so many steps; students draw as they are trained to."""
        return fresh(self.unet, noise, code, crops, STUDENT_STEPS[:: len(STUDENT_STEPS) // steps])

    @torch.no_grad()
    def sheet(self) -> Image.Image:
        """Eight things, two seeds each, one row per number of steps and seed."""
        torch.manual_seed(0)
        things = [Target(THINGS[i]) for i in (0, 1, 3, 9, 18, 33, 47, 59)]
        code, crops = codes.encode(things), torch.zeros(len(things), 2)
        noises = [torch.randn(len(things), CHANNELS, GRID, GRID) for _ in range(2)]
        vae = decoder.shipped_vae()
        self.average.swap()
        rows = []
        for steps, noise in itertools.product(self.few, noises):
            made = self.paint(noise, code, crops, steps)
            with torch.autocast("cpu", torch.bfloat16):
                pictures = vae.decode(made / decoder.SCALING).sample.float()
            rows.append(torch.nn.functional.avg_pool2d(pictures, 4).add(1).mul(127.5).clamp(0, 255))
        self.average.swap()
        page = torch.cat([torch.cat(list(row), 2) for row in rows], 1).permute(1, 2, 0)
        return Image.fromarray(page.round().to(torch.uint8).numpy())


def shipped() -> UNet2DConditionModel:
    """The shipped generator, what the teacher starts from, as it says v: where all is noise, v is -x0."""
    unet = generator.build()
    if not generator.shipped(unet):
        raise SystemExit("no shipped weights of this architecture to start from")
    with torch.no_grad():
        for parameter in unet.conv_out.parameters():
            parameter.neg_()
    return unet


def load(path: Path) -> UNet2DConditionModel:
    """The averaged weights of a teacher's or a student's checkpoint."""
    state = checkpoint(path)["learner"]
    unet = generator.build()
    with fitting(path):
        unet.load_state_dict(state["live"])
    with torch.no_grad():
        for parameter, mean in zip(unet.parameters(), state["average"]["mean"], strict=True):
            parameter.copy_(mean)
    return unet

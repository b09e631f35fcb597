"""The generator: a small UNet that turns noise and a prompt's codes into latents in one step (or in two to four).

There is no teacher: the picture for a code, a crop and a noise is known (`latents.Composer`), so one step is plain
regression, and blur is what it has to fight. Three things help: the crop says where the thing stands and the noise
paints only the background (`latents.washes`, which convolutions can read off it), up to a third of the codes are
the text encoder's own (`Reader`), and the loss asks for what is seen, mostly absolutely (`perception`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from PIL import Image
from torch import Tensor

from training import codes, decoder, loop, text
from training.batches import Batch, Batches, Reader
from training.concepts import COLOUR_NAMES
from training.data import SMALL, load_art
from training.decoder import SCALING
from training.latents import (
    CHANNELS,
    EDGE,
    GRID,
    PLACED,
    Composer,
    Encoder,
)
from training.optim import Muon, adopt
from training.paths import SHIPPED, WORK
from training.perception import Distance

CHECKPOINT = WORK / "generator.pt"
WIDTHS = (64, 96, 160, 160, 160)
"""Channels at 32, 16, 8, 4 and 2 latent pixels."""
LAYERS = (1, 2, 3, 2, 1)
"""Residual blocks at these levels on the way down; on the way up there is one more."""
COMMON, OWN = 256, 1076
"""Numbers that reach every block: for what things have in common, and one for each of this many things."""
ATTENTION = (False, True, False, False, False)
"""Where the way up, from 2 to 32 latent pixels, attends to the slots: at 4, and in the middle, at 2. There padding
tells every cell where it is, and a group's thing has a cell or a few; above, all has been said."""
HEADS = (2, 3, 5, 5, 5)
"""Attention heads by level, 32 channels each."""
GROUPS = 16
"""Groups of each normalisation: all widths are multiples."""
NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
"""SDXL Turbo's noise levels, as diffusers' schedulers take them."""
FIRST, LOWEST = 999, 499
"""Timesteps of the first step and, where there are several, of the last."""
SIGMA: list[float] = EulerDiscreteScheduler(**NOISE).sigmas[:-1].flip(0).tolist()
"""The noise levels by timestep."""
SIMULATED = 0.7
"""How often a later step begins with the network's own drawing, and not with the truth."""


def scheduler() -> EulerDiscreteScheduler:
    """SDXL Turbo's noise, in Karras' steps (arXiv 2206.00364) from FIRST to LOWEST; one noise throughout.

    The network says the clean latents themselves. With v-prediction a later step's network has to cancel, exactly,
    all noise that is left in what it sees, and at this size cannot. What it says here it can say without looking,
    all but the wash: that it reads off the noise, and draws the more faintly the less noise is left. Hence LOWEST.
    """
    return EulerDiscreteScheduler(
        **NOISE,
        prediction_type="sample",
        use_karras_sigmas=True,
        sigma_min=SIGMA[LOWEST],
        timestep_spacing="trailing",
        steps_offset=1,
    )


def build(widths: tuple[int, ...] | None = None) -> UNet2DConditionModel:
    """An untrained UNet: the pooled code reaches every block through the embedding (scale and shift), the slots the
    upward blocks with attention."""
    widths = widths or WIDTHS
    levels = len(widths)
    unet = UNet2DConditionModel(
        sample_size=GRID,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=widths,
        layers_per_block=LAYERS[:levels],
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in ATTENTION),
        mid_block_type="UNetMidBlock2DCrossAttn",
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=6 * 32 + codes.CODE,
        time_embedding_dim=COMMON + OWN,
        cross_attention_dim=codes.STATES,
        use_linear_projection=True,
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=GROUPS,
        attention_head_dim=HEADS[:levels],
    )
    speak_up(unet)
    recognise(unet)
    return unet.to(memory_format=torch.channels_last)


@torch.no_grad()
def speak_up(unet: UNet2DConditionModel) -> None:
    """Codes are short: rows of this size give what each says its own clear direction from the first step."""
    unet.add_embedding.linear_1.weight[:, : codes.CODE].normal_(0, 0.5)
    unet.add_embedding.linear_1.weight[:, : codes.THING].div_(codes.LOUD**0.5)
    unet.add_embedding.linear_1.weight[:, codes.CODE :].mul_(0.1)
    unet.add_embedding.linear_2.weight.mul_(2)
    unet.conv_out.weight.mul_(0.3)
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock):
            listen(module)


KEEN, HEARD = 10.0, 0.2
"""How steeply a thing's own number rises, and from which score: the thing has 1, others some 0.07 either way, one
of two, three, four things a half, a third, a quarter."""


@torch.no_grad()
def recognise(unet: UNet2DConditionModel) -> None:
    """Give each thing a number of its own in the embedding: 15 and more where it is named, hardly any elsewhere.

    Patterns have 160 dimensions, and ordinary layers make little more of them: of a thousand directions in which
    things differ most are faint, and what is faint is learnt late. Each row here is a thing's pattern by the
    inverse of all patterns' second moments, which scores that thing and as little as possible of all others.
    """
    patterns = codes.PATTERNS[:OWN].double()
    rows = patterns @ torch.linalg.pinv(patterns.T @ patterns)
    rows /= (rows * patterns).sum(1, keepdim=True)
    read, write = unet.add_embedding.linear_1, unet.add_embedding.linear_2
    for layer in (read, write, unet.time_embedding.linear_2):
        layer.weight[COMMON:].zero_()
        layer.bias[COMMON:].zero_()
    things = slice(COMMON, COMMON + len(rows))
    read.weight[things, : codes.THING] = KEEN * rows.float()
    read.bias[things] = -KEEN * HEARD
    write.weight[things, things] = 2 * torch.eye(len(rows))
    write.bias[things] = -1  # where SiLU is flat: nothing of what a thing is not


BEHIND = codes.IDLE + codes.SLOT
"""Where hidden states are the text encoder's own, ten times as loud as the slots: attention never listens there."""


@torch.no_grad()
def listen(block: BasicTransformerBlock) -> None:
    """Start cross-attention where it has to end: at the slots only, chosen by their places, heard by their things.

    A constant in the query (the normalisation's bias) meets the flag in the keys, worth thirty in the logits, so
    that a text's many tokens do not drown four slots. The gains make up for how small the slots' numbers are.
    """
    attention, shade = block.attn2, codes.IDLE + codes.THING
    for matrix in (attention.to_k, attention.to_v):
        matrix.weight[:, BEHIND:].zero_()
    attention.to_k.weight[:, codes.IDLE : shade].mul_(0.1)
    attention.to_k.weight[:, shade + len(COLOUR_NAMES) : codes.IDLE + codes.SLOT].mul_(60)
    attention.to_v.weight[:, codes.IDLE :].mul_(10)
    block.norm2.bias.fill_(0.5)
    constant = (attention.to_q.weight @ block.norm2.bias).view(attention.heads, -1)
    aim = constant / constant.norm(dim=1, keepdim=True) ** 2 * 30 * constant.shape[1] ** 0.5 / codes.FLAG
    attention.to_k.weight[:, : codes.SLOTS] += aim.reshape(-1, 1)


def seen(x0: Tensor, noise: Tensor, t: int) -> Tensor:
    """What the network sees (B, 24, 32, 32) at step t, if it has said x0 (alike) before: at first, noise alone.

    Euler's method, step by step from nothing but noise, ends at (1 - sigma / sigma_first) x0 + sigma noise.
    """
    return ((1 - SIGMA[t] / SIGMA[FIRST]) * x0 + SIGMA[t] * noise) / math.sqrt(SIGMA[t] ** 2 + 1)


def predict(
    unet: UNet2DConditionModel, x: Tensor, t: int, code: Tensor, states: Tensor, crops: Tensor
) -> Tensor:
    """The clean latents (B, 24, 32, 32) that the network sees in noisy ones at step t.

    By the pooled codes (B, CODE), the text's hidden states (B, n, STATES), and the crops' corners (B, 2) in pixels.
    """
    edge, step = torch.full_like(crops, EDGE), torch.full((len(x),), t, device=x.device)
    with torch.autocast(x.device.type, torch.bfloat16):
        output = unet(
            x.contiguous(memory_format=torch.channels_last),
            step,
            encoder_hidden_states=states,
            added_cond_kwargs={"text_embeds": code, "time_ids": torch.cat([edge, crops, edge], 1)},
        ).sample
    clean: Tensor = output.float()
    return clean


def muon(unet: UNet2DConditionModel, factor: float = 1.0) -> Muon:
    """Muon for the convolutions and the blocks' projections, AdamW for both ends and the embeddings."""
    return Muon(
        unet.named_parameters(),
        muon_rate=3e-3 * factor,
        adam_rate=1.5e-3 * factor,
        weight_decay=0.01,
        exclude=("conv_in", "conv_out", "add_embedding", "time_embedding"),
    )


def load(path: Path | None = None) -> UNet2DConditionModel:
    """The trained UNet (averaged weights)."""
    unet = build()
    loop.fill(unet, path or CHECKPOINT)
    return unet


def latest() -> UNet2DConditionModel | None:
    """The checkpoint's UNet, else the shipped one, else none."""
    if CHECKPOINT.exists():
        return load()
    unet = build()
    return unet if shipped(unet) else None


def shipped(unet: UNet2DConditionModel) -> bool:
    """Load the shipped weights, if they are there and fit."""
    if not (SHIPPED / "unet" / "config.json").exists():
        return False
    saved = UNet2DConditionModel.from_pretrained(SHIPPED / "unet", torch_dtype=torch.float32)
    return adopt(unet, saved)


def deaf(gradient: Tensor) -> Tensor:
    """The gradient of keys or values without what lies behind the slots."""
    return torch.cat([gradient[:, :BEHIND], torch.zeros_like(gradient[:, BEHIND:])], 1)


class Painter(loop.Fit):
    """`loop.Learner` of the generator."""

    def __init__(
        self, unet: UNet2DConditionModel, batches: Batches, batch: int, rate: float = 1.0, later: float = 0.25
    ) -> None:
        """A share of batches, `later`, is of the steps after the first; `rate` is of the full learning rates."""
        super().__init__(unet, muon(unet, rate))
        self.batches, self.batch, self.later = batches, batch, later
        for name, weight in unet.named_parameters():
            if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                weight.register_hook(deaf)
        self.distance = Distance(batches.encoder.matrix).to(batches.device)
        self.stream = None if batches.device == "cpu" else torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.ahead: tuple[Batch, list[codes.Target]] | None = None

    def predict(self, drawn: Batch, x: Tensor, t: int) -> Tensor:
        """See `predict`: the clean latents (B, 24, 32, 32) in x (alike) at step t, by what `drawn` says."""
        return predict(self.network, x, t, drawn.code, drawn.states, drawn.crops)

    def first(self, drawn: Batch) -> Tensor:
        """What is seen at the first step (B, 24, 32, 32): noise alone."""
        return seen(drawn.x0, drawn.noise, FIRST)

    def noisy(self, drawn: Batch, rng: np.random.Generator) -> tuple[Tensor, int]:
        """What is seen (B, 24, 32, 32) at the first step or a later one, and at which timestep, LOWEST or above.

        There the latents are true or, as when it is used, what the network itself drew at first (DMD2's backward
        simulation, arXiv 2405.14867): true ones alone teach it to keep what is there.
        """
        if rng.random() >= self.later:
            return self.first(drawn), FIRST
        t, x0 = int(rng.integers(LOWEST, FIRST)), drawn.x0
        if rng.random() < SIMULATED:
            with torch.no_grad():
                x0 = self.predict(drawn, self.first(drawn), FIRST)
        return seen(x0, drawn.noise, t), t

    def draw(self, size: int, rng: np.random.Generator) -> tuple[Batch, list[codes.Target]]:
        """See `Batches.draw`; on a card beside what it does, so that `ready` comes before what is drawn is used."""
        with torch.cuda.stream(self.stream):
            return self.batches.draw(size, rng)

    def ready(self) -> None:
        """Let what the card does from now on come after what was drawn."""
        if self.stream:
            torch.cuda.current_stream().wait_stream(self.stream)

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`."""
        drawn, targets = self.ahead or self.draw(self.batch, rng)
        self.ready()
        x, t = self.noisy(drawn, rng)
        made, x0 = self.predict(drawn, x, t), drawn.x0
        loss, seen = self.distance(made, x0)
        self.learn(loss, index, fraction)
        # While a card still learns, the next batch is drawn: only what follows waits for it.
        self.ahead = self.draw(self.batch, rng) if self.stream else None
        if t == FIRST:
            self.batches.learnt(targets[-len(seen) :], seen)
        # What comes often must be one thing in all processes, or a resumed run would go on otherwise.
        loop.all_reduce_mean([torch.from_numpy(self.batches.errors)])
        return {"l1": float((made.detach() - x0).abs().mean()), "seen": float(seen.mean())}

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Learner`."""
        return {**super().state_dict(), "errors": torch.from_numpy(self.batches.errors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `loop.Learner`."""
        super().load_state_dict(state)
        self.batches.errors, self.ahead = state["errors"].numpy().copy(), None

    @torch.no_grad()
    def sheet(self) -> Image.Image | None:
        """Sixteen pictures in one step, by the averaged weights, under what they are to be."""
        if (vae := decoder.latest()) is None:
            return None
        torch.manual_seed(0)
        drawn = self.draw(16, np.random.default_rng(0))[0]
        self.ready()
        self.average.swap()
        made = self.predict(drawn, self.first(drawn), FIRST)
        self.average.swap()
        rows = []
        for latents in torch.cat([drawn.x0, made]).cpu().view(4, 8, *made.shape[1:]):
            pictures = F.avg_pool2d(vae.decode(latents / SCALING).sample, 4)
            rows.append(torch.cat(list(pictures.add(1).mul(127.5).clamp(0, 255)), 2))
        page = torch.cat([rows[i] for i in (0, 2, 1, 3)], 1).permute(1, 2, 0)
        return Image.fromarray(page.round().to(torch.uint8).numpy())


def train(
    minutes: float = 60,
    steps: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    path: Path = CHECKPOINT,
    resume: bool = True,
    device: str = "cpu",
    composer: Composer | None = None,
    encoder: Encoder | None = None,
) -> None:
    """Train for `steps`, or as many as `minutes` hold (`loop.budget`).

    Goes on from the checkpoint at `path`; without one, from the shipped weights at a third of the learning rates;
    without those, from `build`. A `batch` is 32 pictures, on a card 512.
    """
    torch.manual_seed(seed)
    unet = build().train()
    rate = 0.35 if resume and shipped(unet) else 1.0
    art = composer or Composer(*load_art((PLACED, SMALL)))
    listener = text.latest()
    reader = Reader(listener, text.load_tokenizer(), device) if listener else None
    batches = Batches(art, encoder or Encoder.load(), reader, device=device)
    painter = Painter(unet.to(device), batches, batch or (32 if device == "cpu" else 512), rate)
    loop.train(painter, path, steps, minutes, seed, resume, device)

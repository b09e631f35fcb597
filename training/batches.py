"""What the generator learns from: noise, codes of targets and of captions, and the latents that belong to them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from training import codes, text
from training.captions import Captions
from training.concepts import CONCEPTS
from training.data import SMALL
from training.decoder import SCALING
from training.latents import (
    CHANNELS,
    CROPS,
    EDGE,
    GRID,
    PATCH,
    PLACED,
    REACH,
    Composer,
    Encoder,
    Pose,
    Scene,
    behind,
    grounds,
    place,
    washes,
)

OFTEN, FAVOUR = 200, 2.0
"""The most popular things come this much more often than they would."""
POOL, FRESH = 20_000, 32
"""Captions that a reader knows at a time, and new ones for every batch."""
KEPT, KEPT_ON_CARD = 10_000, 250_000
"""Parts of pictures that are kept, those used last: 2.5 GB at most, on a card 62."""
UNREAD = torch.zeros(0, codes.CODE), torch.zeros(0, text.LENGTH, codes.STATES)
"""Pooled codes and hidden states of no captions."""


class Reader:
    """Captions as the trained text encoder reads them, with what they mean.

    The generator meets codes that are a little wrong and learns to draw what was meant all the same. Captions that
    are misread are left out: they would teach it to draw mixtures.
    """

    def __init__(
        self, encoder: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, device: str = "cpu"
    ) -> None:
        """`encoder` stays as it is, on `device`; only on a card do captions come again."""
        self.encoder, self.tokenizer, self.captions = encoder.eval().to(device), tokenizer, Captions(0)
        self.fresh = FRESH if device != "cpu" else None
        self.idle = text.build_idle(tokenizer).eval().to(device)
        self.known: deque[tuple[Tensor, Tensor, codes.Target]] = deque(maxlen=POOL)

    @torch.no_grad()
    def meet(self, count: int) -> None:
        """Write `count` captions of nothing held out; those read rightly are known, the oldest forgotten."""
        fresh = list[tuple[str, codes.Target]]()
        while len(fresh) < count:
            more = zip(*self.captions.batch(count - len(fresh)), strict=True)
            fresh += [(caption, target) for caption, target in more if not codes.held_out(target)]
        captions, targets = zip(*fresh, strict=True)
        ids = text.tokens(self.tokenizer, list(captions), full=True).to(self.encoder.device)
        read = self.encoder(ids, output_hidden_states=True)
        states = torch.cat(
            [self.idle(ids, output_hidden_states=True).hidden_states[-2], read.hidden_states[-2]], 2
        )
        pooled, states = read.text_embeds.float(), states.float()
        said = codes.decode(
            pooled.cpu(), states[:, -codes.SLOTS :, codes.IDLE : codes.IDLE + codes.SLOT].cpu()
        )
        readings = zip(pooled, states, targets, said, strict=True)
        self.known.extend(
            (code, hidden, target) for code, hidden, target, meant in readings if meant == target
        )

    def read(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[codes.Target]]:
        """Pooled codes (n, CODE), hidden states (n, LENGTH, STATES), targets of captions that were read rightly.

        `count` at most. A grammar written in Python would starve a card: there, most captions come again, in other
        company.
        """
        self.captions.rng = rng
        if self.fresh is None:
            self.known.clear()
        self.meet(self.fresh if self.fresh and len(self.known) >= count else count)
        chosen = [self.known[i] for i in rng.permutation(len(self.known))[:count]]
        if not chosen:
            return *UNREAD, []
        pooled, states, targets = zip(*chosen, strict=True)
        return torch.stack(pooled), torch.stack(states), list(targets)


class Batch(NamedTuple):
    """B pictures to learn from: noise and clean latents (B, 24, 32, 32), pooled codes (B, CODE), the text's hidden
    states (B, n, STATES), crops' corners (B, 2)."""

    noise: Tensor
    code: Tensor
    states: Tensor
    crops: Tensor
    x0: Tensor


class Batches:
    """Noise, codes and the latents that belong to them."""

    def __init__(
        self,
        composer: Composer,
        encoder: Encoder,
        reader: Reader | None = None,
        several: float = 0.35,
        device: str = "cpu",
    ) -> None:
        """A share of pictures are of `several` things.

        With a `reader`, up to a third of the codes are what it reads in captions. Parts of pictures are kept, and
        put together, on `device`.
        """
        self.composer, self.reader, self.several = composer, reader, several
        self.encoder = encoder.to(device)
        self.device = device
        self.errors = np.full((2, len(CONCEPTS)), 0.15)
        self.encoded = lru_cache(maxsize=KEPT if device == "cpu" else KEPT_ON_CARD)(self.encode)

    def parts(
        self, concept: int | None, colour: int | None, edge: int, target: codes.Target, mirrored: bool = False
    ) -> Tensor:
        """(4, 24, h, w): a thing's scaled latents over black, and what red, green and blue behind it add.

        Latents are linear in the background. One thing alone has a margin on every side (the art's own margin is
        empty), so that any crop is a view; a group's thing is cut out of its own box.
        """
        scene = Scene(concept, colour, behind(target), Pose(0, 0, edge), target.style)
        return self.encoded(scene, mirrored)

    def encode(self, scene: Scene, mirrored: bool) -> Tensor:
        """The `parts` of a scene in the middle, on `device`, in half precision."""
        cutout, inset = self.composer.cutout(scene, self.device)[None], (EDGE - SMALL) // 2
        cutout = cutout.flip(2) if mirrored else cutout
        if scene.pose.size == SMALL:
            parts = self.encoder.parts(cutout[:, inset:-inset, inset:-inset])[0] * SCALING
        else:
            parts = F.pad(SCALING * self.encoder.parts(cutout)[0], (REACH,) * 4, mode="replicate")
        return parts.half()

    def latents(
        self,
        targets: Sequence[codes.Target],
        crops: Sequence[Sequence[int]],
        backgrounds: Tensor,
        mirrored: Sequence[bool] = (),
    ) -> Tensor:
        """(B, 24, 32, 32), scaled, over backgrounds (B, 3, 32, 32) that are even within a patch."""
        flips = mirrored or [False] * len(targets)
        corners = [[REACH + offset // PATCH for offset in crop] for crop in crops]
        wide = [
            self.parts(target.concept, target.colour, PLACED, target, flip)[:, :, y : y + GRID, x : x + GRID]
            for target, flip, (y, x) in zip(targets, flips, corners, strict=True)
        ]
        parts, placed = torch.stack(wide).float(), []
        for i, (target, flip) in enumerate(zip(targets, flips, strict=True)):
            for concept, colour, index in target.group:
                pose = place(index)
                corner = [((EDGE - SMALL) // 2 + shift) // PATCH for shift in (pose.dy, pose.dx)]
                placed.append((i, *corner, self.parts(concept, colour, SMALL, target, flip)))
        if placed:
            rows, tops, lefts, things = zip(*placed, strict=True)
            cells = torch.arange(SMALL // PATCH, device=self.device)
            picture, top, left = torch.tensor([rows, tops, lefts], device=self.device)[..., None, None]
            boxes = torch.stack(things).float().permute(0, 3, 4, 1, 2)
            parts[picture, :, :, top + cells[:, None], left + cells] = boxes
        return parts[:, 0] + torch.einsum("bphw,bpchw->bchw", backgrounds, parts[:, 1:])

    def learnt(self, targets: list[codes.Target], errors: Tensor) -> None:
        """Remember how far from right things were drawn, `errors` (B,): the worst come more often."""
        for target, error in zip(targets, errors.tolist(), strict=True):
            errors_of = self.errors[int(bool(target.group))]
            for thing in target.things:
                errors_of[thing.concept] += 0.2 * (error - errors_of[thing.concept])

    def draw(self, size: int, rng: np.random.Generator) -> tuple[Batch, list[codes.Target]]:
        """`size` pictures and what they show, by chance: `rng`'s and torch's own."""
        noise = torch.randn(size, CHANNELS, GRID, GRID, device=self.device)
        code, states, targets = (
            self.reader.read(math.ceil(size / 3), rng) if self.reader else (*UNREAD, list[codes.Target]())
        )
        told = len(targets)
        hardness = self.errors**2
        hardness[:, :OFTEN] *= FAVOUR
        targets += [codes.sample(rng, several=self.several, hardness=hardness) for _ in range(size - told)]
        # A little noise on exact codes, since the text encoder's are not exact; anything at the text's own tokens.
        exact, slots = (said(targets[told:]).to(self.device) for said in (codes.encode, codes.slots))
        exact += 0.02 * torch.randn_like(exact)
        others = torch.randn(size - told, text.LENGTH - codes.SLOTS, codes.WIDTH, device=self.device)
        made = codes.states(slots + 0.03 * torch.randn_like(slots), others)
        code, states = torch.cat([code.to(exact), exact]), torch.cat([states.to(made), made])
        crops = torch.from_numpy(rng.choice(CROPS, (size, 2)))
        x0 = self.latents(targets, crops.tolist(), washes(noise, grounds(targets).to(self.device)))
        return Batch(noise, code, states, crops.to(self.device), x0), targets

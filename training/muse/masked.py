"""Muse's two masked transformers: tokens of a small picture from a text; of a large one from text and small one.

The paper's recipe: each picture is masked at a rate of cos(pi u / 2), u uniform; cross-entropy on masked tokens;
a tenth of the texts dropped, which here means the empty prompt, as diffusers' AmusedPipeline guides away from it.
The text encoder is the embedded model's, frozen.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UVit2DModel, VQModel
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from onestroke.pipelines.muse.sampling import Draws, Rule, steps_of, unmask
from onestroke.pipelines.muse.super_resolution import SuperResolution
from training import loop
from training.codes import Target
from training.muse import codec
from training.muse.pictures import LARGE, SMALL, THINGS, Pictures, View, captions, sample, to_bytes
from training.optim import Muon
from training.paths import SHIPPED, WORK

Stage = Literal["base", "super"]
STAGES: tuple[Stage, ...] = ("base", "super")
CHECKPOINTS: dict[Stage, Path] = {
    "base": WORK / "muse" / "base.pt",
    "super": WORK / "muse" / "super.pt",
}
STEPS: dict[Stage, int] = {"base": 1500, "super": 800}
BATCH = 16
DROPPED = 0.1
LENGTH = 16
"""Tokens of a prompt; longer ones are cut. The encoder reads 32, but each costs a key in every attention."""
PATCH = 8
MASK = codec.CODEBOOK
AESTHETIC = 6
"""What AmusedPipeline tells its transformer of every picture."""
WIDTHS: dict[str, int] = {
    "block_out_channels": 96,
    "in_channels": 96,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_res_blocks": 4,
    "block_num_heads": 3,
    "num_attention_heads": 2,
}


def config(stage: Stage, texts: Texts, widths: dict[str, int] | None = None) -> dict[str, Any]:
    """A UVit2DModel's configuration. It knows a token's place by the zeros around the grid alone, which its four
    convolutions carry to the middle of 8x8; the second stage halves its 16x16 tokens inside."""
    halved = stage == "super"
    return {
        **(widths or WIDTHS),
        "cond_embed_dim": texts.encoder.config.projection_dim,
        "encoder_hidden_size": texts.encoder.config.hidden_size,
        "micro_cond_encode_dim": 32,
        "micro_cond_embed_dim": 5 * 32,
        "codebook_size": codec.CODEBOOK,
        "vocab_size": codec.CODEBOOK + 8,
        "downsample": halved,
        "upsample": halved,
        "sample_size": (LARGE if halved else SMALL) // PATCH,
    }


def build(stage: Stage, texts: Texts, widths: dict[str, int] | None = None) -> nn.Module:
    """An untrained network that reads what `texts` says."""
    torch.manual_seed(1)
    made = config(stage, texts, widths)
    network: nn.Module = SuperResolution(made, SMALL // PATCH) if stage == "super" else UVit2DModel(**made)
    return network


class Texts:
    """The frozen text encoder, and what it said before."""

    def __init__(self, folder: Path = SHIPPED) -> None:
        """`folder` holds `text_encoder_2` and `tokenizer_2`."""
        self.encoder = CLIPTextModelWithProjection.from_pretrained(
            folder / "text_encoder_2", dtype=torch.float32
        )
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer_2", model_max_length=LENGTH)
        self.encoder.eval()
        self.known: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Hidden states (B, 16, 192) and pooled embeddings (B, codes.CODE)."""
        new = sorted({text for text in texts if text not in self.known})
        if new:
            ids = self.tokenizer(new, padding="max_length", truncation=True, return_tensors="pt").input_ids
            said = self.encoder(ids, output_hidden_states=True)
            rows = zip(new, said.hidden_states[-2].half(), said.text_embeds, strict=True)
            self.known.update({text: (hidden.clone(), pooled.clone()) for text, hidden, pooled in rows})
        hidden, pooled = zip(*(self.known[text] for text in texts), strict=True)
        return torch.stack(hidden).float(), torch.stack(pooled)


class World:
    """Views as tokens, each encoded once."""

    def __init__(self, vq: VQModel, pictures: Pictures, device: str = "cpu") -> None:
        self.vq, self.pictures, self.device = vq.to(device), pictures, device
        self.known: dict[tuple[int, View], Tensor] = {}

    def tokens(self, views: list[View], edge: int) -> Tensor:
        """(B, edge / 8, edge / 8)."""
        new = [view for view in dict.fromkeys(views) if (edge, view) not in self.known]
        if new:
            made = codec.encode(self.vq, self.pictures.paint(new, edge).to(self.device)).cpu()
            self.known.update({(edge, view): each for view, each in zip(new, made, strict=True)})
        return torch.stack([self.known[edge, view] for view in views])


def mask(shape: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    """Which tokens (B, h, w) are hidden: of each picture a share of cos(pi u / 2), at least one, anywhere."""
    size = shape[1] * shape[2]
    rates = np.cos(math.pi / 2 * rng.random(shape[0]))
    counts = np.maximum(1, np.round(rates * size))
    order = rng.random((shape[0], size)).argsort(1).argsort(1)
    return torch.from_numpy(order < counts[:, None]).view(shape)


def loss(logits: Tensor, tokens: Tensor, hidden: Tensor) -> Tensor:
    """Cross-entropy of logits (B, codebook, h, w) where `hidden`, the mean over those tokens."""
    return F.cross_entropy(logits.permute(0, 2, 3, 1)[hidden], tokens[hidden])


def conditions(size: int, edge: int, device: str = "cpu") -> Tensor:
    """Micro-conditioning (size, 5) as AmusedPipeline gives it."""
    return torch.tensor([[edge, edge, 0, 0, AESTHETIC]], dtype=torch.float32, device=device).expand(size, -1)


def forward(
    network: nn.Module, shown: Tensor, small: Tensor | None, hidden: Tensor, pooled: Tensor
) -> Tensor:
    """fp32 logits of either stage's tokens, `small` given for the second, computed in bf16.

    The plain attention: torch's fused one is slow going backwards on a CPU.
    """
    device = shown.device
    given: dict[str, Tensor] = {} if small is None else {"small": small}
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(device.type, torch.bfloat16):
        logits: Tensor = network(
            shown,
            encoder_hidden_states=hidden,
            pooled_text_emb=pooled,
            micro_conds=conditions(len(shown), shown.shape[1] * PATCH, str(device)),
            **given,
        )
    return logits.float()


class Learner(loop.Fit):
    """`loop.Learner` of either stage."""

    def __init__(
        self,
        stage: Stage,
        network: nn.Module,
        world: World,
        texts: Texts,
        batch: int = BATCH,
        device: str = "cpu",
    ) -> None:
        """`network` is trained in place, on `device`."""
        optimiser = Muon(
            network.to(device).train().named_parameters(),
            muon_rate=4e-3,
            adam_rate=2e-3,
            exclude=("embeddings", "positions", "conv2"),
        )
        super().__init__(network, optimiser, half_life=60, warmup=30)
        self.stage, self.world, self.texts, self.batch, self.device = stage, world, texts, batch, device

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`."""
        views = [sample(rng) for _ in range(self.batch)]
        asked = [str(rng.choice(captions(view.target))) if rng.random() >= DROPPED else "" for view in views]
        hidden, pooled = (part.to(self.device) for part in self.texts(asked))
        small = self.world.tokens(views, SMALL).to(self.device)
        tokens, told = (
            (self.world.tokens(views, LARGE).to(self.device), small)
            if self.stage == "super"
            else (small, None)
        )
        masked = mask((len(tokens), *tokens.shape[1:]), rng).to(self.device)
        logits = forward(self.network, tokens.masked_fill(masked, MASK), told, hidden, pooled)
        error = loss(logits, tokens, masked)
        self.learn(error, index, fraction)
        right = (logits.argmax(1) == tokens)[masked].float().mean()
        return {"error": error.item(), "right": right.item()}

    def sheet(self) -> Image.Image:
        """Eight prompts, two seeds each; the second stage from true small pictures, which stand above."""
        views = [View(Target(thing, None, i)) for i, thing in enumerate(THINGS[:8])]
        asked = [captions(view.target)[0] for view in views]
        self.average.swap()
        self.network.eval()
        small = self.world.tokens(views, SMALL) if self.stage == "super" else None
        rows = [] if small is None else [self._pixels(small, 2)]
        for seed in range(2):
            made = draw(self.network, self.texts, asked, [seed * 100 + i for i in range(len(asked))], small)
            rows.append(self._pixels(made, 1))
        self.network.train()
        self.average.swap()
        return Image.fromarray(np.concatenate(rows))

    def _pixels(self, tokens: Tensor, larger: int) -> Any:
        pictures = codec.decode(self.world.vq, tokens.to(self.device)).cpu()
        return np.concatenate(list(to_bytes(F.interpolate(pictures, scale_factor=larger))), 1)


@torch.no_grad()
def draw(
    network: nn.Module,
    texts: Texts,
    prompts: list[str],
    seeds: list[int],
    small: Tensor | None = None,
    steps: int = 12,
    guidance: float = 3.0,
) -> Tensor:
    """Tokens drawn by parallel decoding, the server's own rule; given `small` ones, by the second stage."""
    device = str(next(network.parameters()).device)
    edge = (SMALL if small is None else LARGE) // PATCH
    tokens = torch.full((len(prompts), edge, edge), MASK, device=device)
    draws = [Draws(seed) for seed in seeds]
    given = [(part.to(device)) for part in texts([*[""] * len(prompts), *prompts])]
    told = None if small is None else small.to(device).repeat(2, 1, 1)
    for step in steps_of(Rule(MASK), steps):
        without, with_text = forward(network, tokens.repeat(2, 1, 1), told, given[0], given[1]).chunk(2)
        logits = without + guidance * (with_text - without)
        tokens = unmask(logits, tokens, [step] * len(prompts), [1.0] * len(prompts), draws, MASK)
    return tokens.cpu()


def train(
    stage: Stage,
    world: World,
    texts: Texts,
    steps: int | None = None,
    path: Path | None = None,
    batch: int = BATCH,
    device: str = "cpu",
) -> nn.Module:
    """Train to `steps`, going on from the checkpoint at `path`; the network with averaged weights."""
    learner = Learner(stage, build(stage, texts), world, texts, batch, device)
    loop.run(learner, steps or STEPS[stage], path or CHECKPOINTS[stage], save_every=50, sheet_every=300)
    learner.average.swap()
    return learner.network.eval()

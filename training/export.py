"""Put the trained parts together as a `StableDiffusionXLPipeline` folder, packed, and swap it in at once."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from onestroke.pipelines.spelling import FILE
from training import decoder, encoder, generator, loop, sharpen, spelling, text
from training.concepts import CONCEPTS
from training.paths import HERE, SHIPPED, WORK
from training.phrases import KINDS, KINDS_PLURALS

LIMIT = 30_000_000
"""Bytes that the whole folder may have in the wheel, where it is packed."""
EXACT = {
    "unet": ("conv_in", "conv_out", "conv_shortcut", "sampler", "add_embedding.linear_1", "up_blocks.4"),
    "text_encoder_2": ("position_embedding", "text_projection"),
}
"""Weights of the packed parts that ship in two bytes. With all else in float8 the sixth edition's UNet drew 100
things at 23.35 dB, with all of it at 23.31, unpacked at 23.41; in bf16's precision it took 21.2 MB in the wheel, in
float8 10.9. The twelfth's lost 0.11 dB of its latents' 15.84, half of that in the last block of the way up (0.6 of
28.6 M parameters; scripts not kept). The tenth's text encoder says groups' things 9.0% wrong, unpacked 8.6% (of the
square), in 3.9 MB for 7.9."""


def assemble() -> StableDiffusionXLPipeline:
    """The pipeline from the checkpoints in the scratch folder; those of `sharpen`, where they are `current`.

    A part that nobody has trained anew is the shipped one. SystemExit if that is not there either.
    """
    tokenizer, listener = text.load_tokenizer(), text.latest()
    unet, vae = sharpen.load() if sharpen.current() else (generator.latest(), decoder.latest())
    other = decoder.build()  # the VAE's encoder is trained apart: only that half of this one is used
    if encoder.CHECKPOINT.exists():
        loop.fill(other.encoder, encoder.CHECKPOINT)
        there = True
    else:
        there = decoder.shipped(other)
    if unet is None or vae is None or listener is None or not there:
        raise SystemExit("not all parts are there: see `python -m training --help` for the order of commands")
    vae.encoder.load_state_dict(other.encoder.state_dict())
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text.build_idle(tokenizer),
        text_encoder_2=listener,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=generator.scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def load(folder: Path = SHIPPED) -> StableDiffusionXLPipeline:
    """An exported pipeline in fp32, quiet."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    return pipeline


def pack(path: Path, exact: tuple[str, ...]) -> None:
    """Store a network's large weights in a byte each, as float8 (e4m3), which diffusers and transformers 5 cast.

    What is small or passes everything on, `exact`, and vectors keep their precision.
    """
    weights = load_file(path)
    for name, weight in weights.items():
        if weight.ndim > 1 and not any(word in name for word in exact):
            if weight.abs().max() > torch.finfo(torch.float8_e4m3fn).max:
                raise SystemExit(f"not exported: {name} is too large for float8")
            weights[name] = weight.to(torch.float8_e4m3fn)
    save_file(weights, path, metadata={"format": "pt"})


def save(pipeline: StableDiffusionXLPipeline, folder: Path) -> None:
    """Write a pipeline into a fresh folder: fp16 files of bf16 precision, the parts in `EXACT` `pack`ed.

    Every device reads fp16, CPUs compute in bf16 anyway, and numbers that end in three zero bits pack smaller.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(torch.bfloat16).to(torch.float16).save_pretrained(folder)
    for part, exact in EXACT.items():
        for path in (folder / part).glob("*.safetensors"):
            pack(path, exact)
    for path in [*folder.rglob("config.json"), folder / "model_index.json"]:
        # Where a part was loaded from says nothing to anyone else.
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        # What transformers load where nobody says a precision; diffusers load fp32 then.
        if "dtype" in config:
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def points(report: dict[str, Any]) -> float:
    """One number to compare two judged editions by: recognition and backgrounds in percent, and PSNR in dB.

    What an edition can do beyond another counts too: a tenth of a point for each thing, and groups in percent.
    """
    parts = [report["on white"], report["held-out backgrounds"], report["held-out recolourings"]]
    shares: float = sum(part["concept"] + part["background"] for part in parts) / (2 * len(parts))
    shares += float(report["reading"]["fresh captions"]["all"])
    shares += float(report.get("several things", {"concept": 0})["concept"])
    white = report["on white"]
    things = report.get("things", white["n"])  # a quick report looks at a quarter of them
    return 50 * shares + float(white["psnr"]) + 0.1 * float(things * white["concept"])


_YARDSTICK = """
things.tsv lexicon.tsv lexicon_by_hand.tsv untaught.tsv concepts.py keywords.py phrases.py grammar.py frames.py
captions.py codes.py looks.npy data.py latents.py measures.py truth.py text.py drawings.py evaluate.py
spelling.py spelling.json ../server/onestroke/pipelines/spelling.py
"""
YARDSTICK = _YARDSTICK.split()
"""Files that say what is asked of an edition, and what is right."""


def judge(folder: Path, out: Path, quick: bool) -> dict[str, Any]:
    """`evaluate`'s report of an exported folder, with a digest of what it was judged by."""
    from training import evaluate

    digest = yardstick(quick)
    return {**evaluate.evaluate(load(folder), out, quick), "yardstick": digest}


def yardstick(quick: bool) -> str:
    """A digest of `YARDSTICK`: figures by another one are not comparable."""
    files = b"".join(hashlib.sha256((HERE / name).read_bytes()).digest() for name in YARDSTICK)
    return hashlib.sha256(files + bytes([quick])).hexdigest()[:16]


def shipped(quick: bool) -> dict[str, Any] | None:
    """The report of the shipped edition by today's yardstick: judged again where that has changed since.

    (One that says things by other codes than today's cannot be judged; then there is only `--force`.)
    """
    path = SHIPPED / "docs" / "report.json"
    if not (path.exists() and (SHIPPED / "unet").exists()):
        return None
    report: dict[str, Any] = json.loads(path.read_text())
    if report.get("yardstick") == yardstick(quick):
        return report
    print("the shipped edition was judged by another yardstick: judging it again", flush=True)
    return judge(SHIPPED, WORK / "evaluation-shipped", quick)


def export(quick: bool = False, force: bool = False) -> None:
    """Assemble, judge, and replace the shipped edition unless it was better."""
    candidate = WORK / "candidate"
    save(assemble(), candidate)
    shutil.copy(spelling.LISTS, candidate / FILE)
    out = WORK / "evaluation"
    report = judge(candidate, out, quick)
    if not force and (before := shipped(quick)) and points(report) < points(before) - 0.1:
        raise SystemExit(
            f"not exported: {points(report):.2f} points, the shipped edition has {points(before):.2f}"
        )
    docs = candidate / "docs"
    docs.mkdir(exist_ok=True)
    (docs / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    for page in out.glob("*.png"):
        from PIL import Image

        Image.open(page).save(docs / f"{page.stem}.webp", quality=80, method=6)
    (candidate / "README.md").write_text(card(report, candidate))
    size = swap(candidate, SHIPPED)
    print(f"exported {size / 1e6:.1f} MB, {points(report):.2f} points")


def card(report: dict[str, Any], folder: Path) -> str:
    """The model card: the template's text with this edition's figures."""

    def row(title: str, part: dict[str, Any]) -> str:
        colour = f"{part['colour']:.1%}" if "recolour" in title else ""
        thing = f"{part['concept']:.1%}" + (f", each {part['things']:.1%}" if "things" in part else "")
        shares = f"{thing} | {part['background']:.1%} | {colour}"
        return f"| {title} | {part['n']} | {shares} | {part['psnr']:.1f} dB |"

    pictures = [
        ("things on white", "on white"),
        ("backgrounds never seen with the thing", "held-out backgrounds"),
        ("recolourings never seen with the thing", "held-out recolourings"),
        ("styles never seen with the thing", "held-out styles"),
        ("two to four things", "several things"),
        ("two things", "two things"),
        ("two to four things, two of them never seen together", "several things, never seen together"),
        ("some of the things on white, one step", "one step"),
        ("the same, two steps", "two steps"),
        ("the same, four steps", "four steps"),
    ]
    readings = {key: part for key, part in report["reading"].items() if "all" in part}
    parameters = {
        name: sum(t.numel() for t in load_file(next((folder / name).glob("*.safetensors"))).values()) / 1e6
        for name in ("text_encoder", "text_encoder_2", "unet", "vae")
    }
    weak = report["on white"]["wrong"]
    return (
        (HERE / "card.md")
        .read_text()
        .replace("{things}", f"{len(CONCEPTS):,}")
        .replace("{lexicon}", f"{len(KINDS) - len(KINDS_PLURALS):,}")
        .replace("{known}", f"{report['reading']['words of the lexicon']['all']:.0%}")
        .replace("{untaught}", str(report["synonyms never taught"]["n"]))
        .replace("{synonyms}", f"{report['reading']['synonyms never taught']['concept']:.0%}")
        .replace("{drawn}", f"{report['synonyms never taught']['concept']:.0%}")
        .replace("{words}", f"{sum(len(concept.words) for concept in CONCEPTS):,}")
        .replace("{pictures}", "\n".join(row(title, report[key]) for title, key in pictures))
        .replace("{readings}", "\n".join(f"| {k} | {p['n']} | {p['all']:.1%} |" for k, p in readings.items()))
        .replace("{keywords}", f"{report['reading']['keywords of one thing']['concept']:.0%}")
        .replace("{unknown}", str(report["unknown prompts"]["n"]))
        .replace("{plain}", f"{report['unknown prompts']['concept']:.0%}")
        .replace("{seeds}", f"{report['seeds']['mean difference between seeds']:.4f}")
        .replace("{ms}", ", ".join(f"{k} {v:g} ms" for k, v in report["ms"].items() if k != "threads"))
        .replace("{threads}", f"{report['ms']['threads']:g}")
        .replace("{parameters}", ", ".join(f"`{name}` {count:.2f} M" for name, count in parameters.items()))
        .replace("{weak}", "; ".join(weak) if weak else "none")
    )


def swap(fresh: Path, folder: Path) -> int:
    """Rename `fresh` over `folder`; its size in the wheel in bytes."""
    size = sum(len(zlib.compress(path.read_bytes())) for path in fresh.rglob("*") if path.is_file())
    if size > LIMIT:
        raise SystemExit(f"{size / 1e6:.1f} MB is more than the {LIMIT / 1e6:.0f} MB that may ship")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(fresh, beside)
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return size

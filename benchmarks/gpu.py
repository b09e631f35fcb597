"""`make bench-gpu PART=ours|peers|server`: one part of the run on a card, bounded in time, merged into one JSON.

Without --model a checkpoint of random weights in SDXL Turbo's exact configuration is written first, with a tiny VAE
beside its own: pictures are noise, times are those of the real thing. Each step is a `python -m benchmarks` of its
own; one that fails or outlasts the budget is named and left out, and the others count.

    ours    the pipeline with the full and the tiny decoder by batch and stage, the roofline; then each lever
            changed alone, its rows named lever.NAME-VALUE.pipeline... beside the main ones
    peers   diffusers as it is and compiled as its documentation recommends, with the same weights and decoders;
            StreamDiffusion beside ours on SD-Turbo's shapes, rows named sd_turbo.
    server  over HTTP and the socket, and typists
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.compare import add_ratios
from benchmarks.options import RANDOM
from benchmarks.results import Report, merge
from benchmarks.session import say

PARTS = ("ours", "peers", "server")
TINY = "vae_tiny"
LEVERS = (
    "compile=off", "graphs=off", "encode_kv=off", "fuse=off", "channels_last=off", "attention=flash",
    "attention=cudnn", "attention=efficient", "quantize=fp8", "dtype=bfloat16", "compile=full",
)  # fmt: skip
"""Each is changed alone; the slowest to compile comes last, so that the budget cuts it first."""
BUDGET = 540.0
"""Seconds for one part, in which no step is begun that cannot end: ten minutes is what a borrowed card may give."""
LEAST = 30.0
"""Seconds that have to be left for another step."""

GRACE = 15.0
"""Seconds for a step to end what it has started."""


@dataclass(frozen=True, slots=True)
class Step:
    """One run of the benchmark; `prefix` goes before the names of its rows."""

    name: str
    arguments: tuple[str, ...]
    prefix: str = ""


def steps_of(part: str, model: str, batches: str, device: str, quick: bool) -> Iterator[Step]:
    """What `part` is made of, the most wanted first."""
    tiny = f"tiny={Path(model) / TINY}"
    both, window = f"full=auto,{tiny}", ("--quick",) if quick else ()
    what: tuple[str, ...]
    sizes = batches.split(",")
    ends = ",".join(dict.fromkeys((sizes[0], "8" if "8" in sizes else sizes[-1])))
    base = ("--model", model, "--device", device, "--no-plot", *window)
    main = (*base, "--lever", "decoder=full")
    match part:
        case "ours":
            yield Step(
                "ours", (*main, "--decoders", both, "--parts", "pipeline,roofline", "--batches", batches)
            )
            for lever in LEVERS:
                name, value = lever.split("=")
                own = ("--dtype", value) if name == "dtype" else ("--lever", lever)
                what = ("--decoders", tiny, "--parts", "pipeline", "--batches", ends)
                yield Step(f"lever {lever}", (*main, *what, *own), f"lever.{name}-{value}.")
        case "peers":
            for modes in ("default", "max-autotune"):
                what = ("--decoders", both, "--parts", "compiled", "--batches", ends, "--compile-mode", modes)
                prefix = "" if modes == "max-autotune" else "mode.default."
                yield Step(f"diffusers compiled, {modes}", (*main, *what), prefix)
            what = ("--decoders", "tiny", "--parts", "pipeline,streamdiffusion", "--batches", ends)
            sd_turbo = ("--model", f"{RANDOM}sd-turbo", *main[2:])
            yield Step("StreamDiffusion, on SD-Turbo's shapes", (*sd_turbo, *what), "sd_turbo.")
        case "server":
            yield Step("server", (*main, "--decoders", tiny, "--parts", "http,socket,typists"))
            yield Step("server, full decoder", (*main, "--decoders", "full=auto", "--parts", "http,socket"))


def run(steps: Iterator[Step], budget: float) -> list[Report]:
    """The reports of the steps that end within `budget` seconds."""
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for i, step in enumerate(steps):
            left = budget - (time.monotonic() - began)
            if left < LEAST:
                say(f"left out for lack of time: {step.name}")
                continue
            out = Path(folder) / f"{i}.json"
            say(f"{step.name} ({left:.0f} s left)")
            command = [sys.executable, "-m", "benchmarks", *step.arguments, "--out", str(out)]
            if (status := ended(command, left)) is None:
                say(f"out of time: {step.name}")
                continue
            if status or not out.is_file():
                say(f"failed: {step.name}")
                continue
            found.append(named(Report.read(out), step.prefix))
    return found


def ended(command: list[str], within: float) -> int | None:
    """The exit status; None for one that was told to stop, which ends its own servers first."""
    process = subprocess.Popen(command)
    try:
        return process.wait(within)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
        return None


def named(report: Report, prefix: str) -> Report:
    """A lever's run keeps its own pipeline's rows, named after the lever."""
    if prefix:
        kept = ("pipeline.", "stage.", "peer.", "ratio.")
        rows = [row for row in report.rows if row.name.startswith(kept)]
        report.rows = [replace(row, name=prefix + row.name) for row in rows]
    return report


def written(folder: Path, device: str) -> Path:
    """A checkpoint of SDXL Turbo's configuration with random weights and a tiny VAE, made where it is not."""
    import torch

    from benchmarks import checkpoints, weights

    model = folder / "sdxl-turbo"
    if not (model / TINY).is_dir():
        say("writing random weights of SDXL Turbo's configuration")
        checkpoints.make("sdxl-turbo", folder, "folder", seed=0, device=device, shard="10GB")
        weights.random_tiny_vae(torch.float16).save_pretrained(model / TINY)
    return model


def main() -> int:
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--part", choices=PARTS, required=True)
    flags.add_argument(
        "--model", type=Path, help="a diffusers folder with a tiny VAE in vae_tiny [random weights]"
    )
    flags.add_argument("--weights", type=Path, default=Path(tempfile.gettempdir()) / "sdxl-turbo-random")
    flags.add_argument("--batches", default="1,2,4,8,16")
    flags.add_argument("--device", default="cuda")
    flags.add_argument("--budget", type=float, default=BUDGET, help=f"seconds [{BUDGET:g}]")
    flags.add_argument("--quick", action="store_true", help="a look, not for the record")
    flags.add_argument("--out", type=Path, required=True, help="JSON that this part is merged into")
    asked = flags.parse_args()
    model = asked.model or written(asked.weights, asked.device)
    steps = steps_of(asked.part, str(model), asked.batches, asked.device, asked.quick)
    reports = run(steps, asked.budget)
    if not reports:
        say("nothing was measured")
        return 1
    say(f"written: {', '.join(map(str, kept(reports, asked.out)))}")
    return 0


def kept(reports: list[Report], out: Path) -> list[Path]:
    """Merge `reports` into `out`, beside what is there. What does not belong together is kept apart, never lost."""
    before = [Report.read(out)] if out.is_file() else []
    # The model's line says what a lever changed; here the rows' names do.
    all_of_them = [replace(each, model=(before + reports)[0].model) for each in before + reports]
    try:
        report = merge(all_of_them)
    except ValueError as error:
        say(str(error))
        paths = [out.with_stem(f"{out.stem}-{time.time_ns()}-{i}") for i in range(len(reports))]
        for report, path in zip(reports, paths, strict=True):
            report.write(path)
        return paths
    add_ratios(report)
    report.write(out)
    for line in report.table():
        print(line)
    return [out]


if __name__ == "__main__":
    raise SystemExit(main())

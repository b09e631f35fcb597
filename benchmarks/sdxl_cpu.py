"""SDXL Turbo's exact shapes on this CPU: our pipeline against diffusers' call with the very same weights.

    python -m benchmarks.sdxl_cpu --calls 3

One 512x512 picture at a time, one step, with the full and with the tiny decoder, stages and roofline included. The
weights are random (see `weights`): pictures are noise, times are not. Two models would not fit into the memory of
an ordinary machine, so nothing takes turns: diffusers draws first, then the same tensors become our pipeline.
"""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from benchmarks import html, machine, plot, published, roofline
from benchmarks.__main__ import RESULTS
from benchmarks.child import timed
from benchmarks.compare import add_ratios
from benchmarks.options import DECODERS, RANDOM, ModelOptions
from benchmarks.peers.diffusers_call import DiffusersCall
from benchmarks.prompts import Prompts
from benchmarks.results import Report
from benchmarks.session import say
from benchmarks.statistics import median
from benchmarks.suite import add_rates, add_work, busy_of_others
from benchmarks.targets import STAGES, Ours, Target
from benchmarks.weights import parts_of
from onestroke.pipelines.loading import DTYPES, pick_dtype

MODEL = "sdxl-turbo"
NUMBERS = 3.5e9
"""Weights of all parts, rounded up."""
ACTIVATIONS = 2e9
"""Bytes beside them, at most, while the full decoder runs."""


def main(arguments: list[str]) -> int:
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.sdxl_cpu", description=(__doc__ or "").splitlines()[0]
    )
    flags.add_argument("--calls", type=int, default=3, help="timed pictures, of which the median counts [3]")
    flags.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="of the network [auto]")
    flags.add_argument("--threads", type=int, default=0, help="0: torch's default [0]")
    flags.add_argument("--out", type=Path, help="JSON to write [benchmarks/results/DEVICE-MODEL-DATE.json]")
    asked = flags.parse_args(arguments)
    dtype = pick_dtype(asked.dtype, torch.device("cpu"))
    needed, free = NUMBERS * dtype.itemsize + ACTIVATIONS, psutil.virtual_memory().available
    if free < needed:
        flags.error(f"this takes {needed / 2**30:.0f} GiB of memory, and {free / 2**30:.0f} GiB are free")

    began, others = time.monotonic(), busy_of_others()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    report = Report(
        device=machine.cpu_name(),
        torch=machine.torch_version(),
        commit=machine.commit(),
        threads=torch.get_num_threads(),
        model=f"{MODEL}, {str(dtype).removeprefix('torch.')}, weights random",
        command=shlex.join(["python", "-m", "benchmarks.sdxl_cpu", *arguments]),
    )
    options = ModelOptions(
        RANDOM + MODEL, device="cpu", dtype=asked.dtype, threads=asked.threads, max_batch=1
    )
    for number, decoder in enumerate(DECODERS):
        prompts = Prompts(0, number)
        measure(report, replace(options, vae=decoder), dtype, decoder, asked.calls, prompts)
        gc.collect()
    report.add("published.sdxl_turbo_a100.b1_ms", published.SDXL_TURBO_A100_MS, "ms")
    add_ratios(report)
    seconds = time.monotonic() - began
    disturbed = max(0.0, busy_of_others() - others) / seconds / (psutil.cpu_count() or 1)
    report.add("machine.others_share", disturbed, "share")
    report.add("machine.run_s", seconds, "s")

    name = f"{machine.slug(f'{report.device}-{MODEL}')}-{time.strftime('%Y-%m-%d')}.json"
    out = asked.out or RESULTS / name
    report.write(out)
    plot.draw(report, out.with_suffix(".png"))
    out.with_suffix(".html").write_text(html.render(report))
    print("\n".join(report.table()))
    say(f"written: {out}")
    return 0


def measure(
    report: Report, options: ModelOptions, dtype: torch.dtype, decoder: str, calls: int, prompts: Prompts
) -> None:
    """The rows of one decoder; as everywhere, a peer's rows name the decoder that is not the main one alone."""
    say(f"{decoder} decoder: weights")
    parts = parts_of(options, dtype)
    theirs = "" if decoder == DECODERS[-1] else f".{decoder}"

    say(f"{decoder} decoder: diffusers")
    peer = typical(DiffusersCall.of(options, parts), prompts, calls)
    report.add(f"peer.diffusers_eager{theirs}.b1.p50_ms", 1000 * peer, "ms")

    say(f"{decoder} decoder: ours")
    ours = Ours.of(options, parts)
    report.add(f"pipeline.{decoder}.b1.p50_ms", 1000 * typical(ours, prompts, calls), "ms")
    stages = [ours.stages(prompts.take(1)) for _ in range(calls)]
    for stage in STAGES:
        if stage == "decode" or not theirs:
            row = f"stage.{f'decode_{decoder}' if stage == 'decode' else stage}.b1.p50_ms"
            report.add(row, 1000 * median([each[stage] for each in stages]), "ms")

    say(f"{decoder} decoder: roofline")
    found = roofline.measure(ours, [1], prompts)
    if theirs:
        add_rates(report, found["rates"])
    add_work(report, f"roofline.{decoder}.b1", f"pipeline.{decoder}.b1", 1, found["work"]["1"])


def typical(target: Target, prompts: Prompts, calls: int) -> float:
    """Seconds for one picture: the median of `calls`, after one that does not count."""
    target.draw(prompts.take(1))
    return median([timed(target, prompts.take(1)) for _ in range(calls)])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""`python -m benchmarks`: flags in, a table, a JSON and a plot out."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import machine
from benchmarks.children import ChildFailed
from benchmarks.options import PARTS, ModelOptions, Options
from benchmarks.session import say

RESULTS = Path(__file__).parent / "results"

EPILOG = """
parts:
  pipeline  prompt text to JPEG bytes without a server, by batch and by stage; beside it diffusers' own call
  http      GET /v1/generate, one picture at a time, and what it adds to the bare pipeline
  socket    the same over the typing socket
  typists   simulated people at 8 keys/s, latest-wins and open-loop clients
  naive     beside them a FastAPI server over diffusers with a lock: the same weights, dtype, threads, clients
  litserve  beside them LitServe with dynamic batching (left out where it is not installed)
  roofline  what the processor could do: GEMM, convolution and copy rates, and the share that is reached

Every timed picture has a prompt never seen before. The machine should have nothing else to do; the report says
what share of it others used. How ages, fairness and the other figures are defined: benchmarks/statistics.py.
"""


def parser() -> argparse.ArgumentParser:
    default = Options()
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure how fast this machine draws; print a table, write a JSON and a plot.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument(
        "--quick", action="store_true", help="a fast look (about two minutes), not for the record"
    )
    flags.add_argument("--parts", default=",".join(PARTS), help="comma-separated, of those below [all]")
    flags.add_argument("--seconds", type=float, help=f"length of one window of typing [{default.seconds:g}]")
    flags.add_argument("--repeats", type=int, help=f"windows that a median is taken of [{default.repeats}]")
    flags.add_argument("--out", type=Path, help="JSON to write [benchmarks/results/DEVICE-DATE.json]")
    flags.add_argument("--no-plot", action="store_true", help="write no PNG beside the JSON")
    flags.add_argument(
        "--seed", type=int, default=default.seed, help=f"of prompts and rhythm [{default.seed}]"
    )
    flags.add_argument("--model", default="auto", help="as `onestroke serve` takes it [auto]")
    flags.add_argument("--device", default="auto", help="auto, cpu, cuda or mps [auto]")
    flags.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 [auto]")
    flags.add_argument(
        "--threads", type=int, default=0, help="CPU threads of every worker; 0: torch's default [0]"
    )
    return flags


def options_of(arguments: argparse.Namespace) -> Options:
    """Raises ValueError, with what would be right, for parts that there are not."""
    parts = tuple(part.strip() for part in arguments.parts.split(",") if part.strip())
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"no part {', '.join(sorted(unknown))}: give some of {', '.join(PARTS)}")
    options = Options(
        model=ModelOptions(arguments.model, arguments.device, arguments.dtype, arguments.threads),
        parts=parts,
        seed=arguments.seed,
        out=arguments.out,
        plot=not arguments.no_plot,
    )
    if arguments.quick:
        options = options.quick()
    if arguments.seconds:
        options = replace(options, seconds=arguments.seconds)
    if arguments.repeats:
        options = replace(options, repeats=arguments.repeats)
    return options


def main(arguments: list[str]) -> int:
    flags = parser()
    try:
        options = options_of(flags.parse_args(arguments))
    except ValueError as error:
        flags.error(str(error))
    from benchmarks import plot, suite

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and children are ended, too

    command = shlex.join(["python", "-m", "benchmarks", *arguments])
    try:
        report = suite.measure(options, command)
    except ChildFailed as error:
        say(f"a process failed:\n{error}")
        return 1
    out = options.out or RESULTS / f"{machine.slug(report.device)}-{time.strftime('%Y-%m-%d')}.json"
    report.write(out)
    if options.plot:
        plot.draw(report, out.with_suffix(".png"))
    for line in report.table():
        print(line)
    say(f"written: {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

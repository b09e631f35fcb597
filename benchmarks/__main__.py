"""`python -m benchmarks`: flags in; a table, a JSON, a plot and an HTML report out."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

from benchmarks import machine
from benchmarks.children import ChildFailed
from benchmarks.compare import add_ratios
from benchmarks.options import COMPILE_MODES, IN_PROCESS, PARTS, RANDOM, ModelOptions, Options, decoders_of
from benchmarks.results import Report, merge
from benchmarks.session import say
from onestroke.levers import Levers

RESULTS = Path(__file__).parent / "results"

EPILOG = """
parts:
  pipeline  prompt text to JPEG bytes without a server, by batch and by stage; beside it diffusers' own call
  compiled  beside it diffusers' call compiled as its guide says (not on a CPU unless asked for: minutes)
  streamdiffusion
            beside it StreamDiffusion's one-step call (only if asked for, and only for SD-Turbo: --model sd-turbo or
            random:sd-turbo)
  systems   50 steps against one: SDXL Turbo at 1 and 4, SDXL and SD 1.5 at 50 (for a model of SDXL Turbo's shapes;
            not on a CPU unless asked for)
  http      GET /v1/generate, one picture at a time, and what it adds to the bare pipeline
  socket    the same over the typing socket
  typists   simulated people at 8 keys/s, latest-wins and open-loop clients
  naive     beside them a FastAPI server over diffusers with a lock: the same weights, dtype, threads, clients
  litserve  beside them LitServe with dynamic batching (left out where it is not installed)
  ray       beside them Ray Serve with @serve.batch (left out where it is not installed: make install-ray)
  mixed     typists beside an app that wants 4 or 50 steps: passes shared, and what it costs who types
  roofline  what the device could do: GEMM, convolution and copy rates, and the share that is reached

--quick measures pipeline, http, socket, typists, naive and roofline, unless --parts says otherwise. Every timed
picture has a prompt never seen before. The machine should have nothing else to do; the report says what share of
it others used. How ages, fairness and the other figures are defined: benchmarks/statistics.py.
"""


def parser() -> argparse.ArgumentParser:
    default = Options()
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure how fast this machine draws; print a table, write a JSON, a plot and an HTML report.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument(
        "--quick", action="store_true", help="a fast look (about two minutes), not for the record"
    )
    flags.add_argument("--parts", help="comma-separated, of those below [all that suit the device]")
    flags.add_argument("--seconds", type=float, help=f"length of one window of typing [{default.seconds:g}]")
    flags.add_argument("--repeats", type=int, help=f"windows that a median is taken of [{default.repeats}]")
    flags.add_argument("--out", type=Path, help="JSON to write [benchmarks/results/DEVICE-DATE.json]")
    flags.add_argument("--no-plot", action="store_true", help="write no PNG and no HTML beside the JSON")
    flags.add_argument(
        "--report", type=Path, metavar="JSON", help="measure nothing: table, PNG and HTML of a run"
    )
    flags.add_argument(
        "--merge",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="measure nothing: one report of several runs of the same device and model, written to --out",
    )
    flags.add_argument(
        "--batches",
        type=numbers,
        default=default.batches,
        help=f"pictures in a batch [{shown(default.batches)}]",
    )
    flags.add_argument(
        "--typists", type=numbers, default=default.typists, help=f"people who type [{shown(default.typists)}]"
    )
    flags.add_argument(
        "--seed", type=int, default=default.seed, help=f"of prompts and rhythm [{default.seed}]"
    )
    flags.add_argument(
        "--model", default="auto", help="as `onestroke serve` takes it, or random:NAME (no servers) [auto]"
    )
    flags.add_argument(
        "--decoders",
        default="own",
        help="own: the model's, and rows do not name it; full,tiny: both, named in rows, crowds and peers with the "
        "last; full=VAE,tiny=VAE: as `onestroke serve --vae` takes them [own]",
    )
    flags.add_argument(
        "--compile-mode", choices=COMPILE_MODES, default=default.compile_mode,
        help=f"of diffusers_compiled [{default.compile_mode}]",
    )  # fmt: skip
    flags.add_argument("--device", default="auto", help="auto, cpu, cuda or mps [auto]")
    flags.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 [auto]")
    flags.add_argument(
        "--lever", action="append", default=[], metavar="NAME=VALUE",
        help="a switch of our pipeline, named as the flag of `onestroke serve`: graphs=off; may be repeated",
    )  # fmt: skip
    flags.add_argument(
        "--threads", type=int, default=0, help="CPU threads of every worker; 0: torch's default [0]"
    )
    return flags


def numbers(text: str) -> tuple[int, ...]:
    """From "1,2,4", rising. Raises ValueError."""
    found = tuple(sorted({int(word) for word in text.split(",")}))
    if not found or found[0] < 1:
        raise ValueError(f"{text} is not a list of numbers from 1 on")
    return found


def shown(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


def levers_of(words: list[str]) -> dict[str, str]:
    """From "name=value" each. Raises ValueError for a lever that there is not."""
    found = {name.replace("-", "_"): value for name, _, value in (word.partition("=") for word in words)}
    known = [field.name for field in fields(Levers)]
    if unknown := set(found) - set(known):
        raise ValueError(
            f"no lever {', '.join(sorted(unknown))}: give NAME=VALUE, NAME one of {', '.join(known)}"
        )
    return found


def options_of(arguments: argparse.Namespace) -> Options:
    """Raises ValueError, with what would be right, for parts that there are not."""
    parts = None
    if arguments.parts:
        parts = tuple(part.strip() for part in arguments.parts.split(",") if part.strip())
        if unknown := set(parts) - set(PARTS):
            raise ValueError(f"no part {', '.join(sorted(unknown))}: give some of {', '.join(PARTS)}")
    if arguments.model.startswith(RANDOM) and not set(parts or PARTS) <= set(IN_PROCESS):
        raise ValueError(f"{arguments.model} is in memory only: give --parts of {', '.join(IN_PROCESS)}")
    options = Options(
        model=ModelOptions(
            arguments.model,
            device=arguments.device,
            dtype=arguments.dtype,
            threads=arguments.threads,
            levers=levers_of(arguments.lever),
        ),
        decoders=decoders_of(arguments.decoders),
        parts=parts,
        batches=arguments.batches,
        typists=arguments.typists,
        compile_mode=arguments.compile_mode,
        seed=arguments.seed,
        out=arguments.out,
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
    asked = flags.parse_args(arguments)
    try:
        if asked.report or asked.merge:
            report, out = written(asked)
        else:
            report, out = measured(options_of(asked), shlex.join(["python", "-m", "benchmarks", *arguments]))
    except (ValueError, OSError) as error:
        flags.error(str(error))
    except ChildFailed as error:
        say(f"a process failed:\n{error}")
        return 1
    if not asked.no_plot:
        from benchmarks import html, plot

        plot.draw(report, out.with_suffix(".png"))
        out.with_suffix(".html").write_text(html.render(report))
    for line in report.table():
        print(line)
    say(f"written: {out}")
    return 0


def written(asked: argparse.Namespace) -> tuple[Report, Path]:
    """A report of runs that are there, and its file; a merged one is written."""
    if asked.report:
        return Report.read(asked.report), asked.report
    report = merge([Report.read(path) for path in asked.merge])
    add_ratios(report)
    if not asked.out:
        raise ValueError("--merge wants --out")
    report.write(asked.out)
    return report, asked.out


def measured(options: Options, command: str) -> tuple[Report, Path]:
    """A run, and the file that it was written to. Raises ChildFailed."""
    from benchmarks import suite

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and children are ended, too
    report = suite.measure(options, command)
    model = report.model.split(",")[0]
    words = [report.device, *[model] * (model != "embedded"), time.strftime("%Y-%m-%d")]
    out = options.out or RESULTS / f"{machine.slug('-'.join(words))}.json"
    report.write(out)
    return report, out


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""`python -m training COMMAND`: make the embedded model, step by step or all at once."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

# Threads that spin while they wait take the cores from whatever else runs; set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

DESCRIPTION = """\
Make Onestroke's embedded text-to-image model.

commands, in the order of `all`:
  data       fetch the art and word lists (npm), render every concept, fit the linear encoder   ~3 min
  text       teach the text encoder what prompts mean                                           20 min
  decoder    teach the decoder to turn latents into crisp pictures                              30 min
  generator  teach the one-step generator                                                       60 min
  sharpen    generator and decoder together, on pixels                                          15 min
  encoder    teach the VAE's encoder the linear latents, for image-to-image                      5 min
  blend      take --part's weights back to --share of their way from those of an --earlier checkpoint; not in `all`
  export     judge the result; put it in place of the shipped weights unless it is worse
  lexicon    find out by WordNet and MiniLM what further words mean; writes lexicon.tsv, which is kept
             (npm, pip; needs `pip install wordfreq==3.1.1`)
  spelling   find out which words slips are put right to; writes spelling.json, which is kept (npm)
  evaluate   judge the shipped weights: figures and contact sheets
  all        data to export, dividing --minutes between the trainers

a Muse of our own (README.md); ships nothing:
  muse         its image tokens, its masked transformer, its super-resolution, in a folder (needs `data`)
  muse-sheets  what that folder draws, and figures

commands of the study of distillation (README.md), in order; they count --steps and ship nothing:
  judge      train the judge, on other art than the generator's; then its own accuracy
  examine    what that judge says of the shipped weights; fails where a needed goal is missed
  teacher    a many-step diffusion model of 64 things, from the shipped weights
  add        ADD's student of it, or with --losses one of its ablations, or plain regression
  dmd2       DMD2's student of it
  ablation   measure all of them that are there (--only NAME: some), side by side

Each trainer draws its curves and sheets beside its checkpoint in training/work/ and goes on from that when run
again; without one it starts from the shipped weights, at a lower learning rate, unless --scratch is given.
Schedules count steps: --steps says how many, or --minutes, which are measured and told as steps at the start; the
same steps and threads make the same weights on a CPU. On an NVIDIA card batches are large, and `all` takes 25
minutes; of its parts the generator alone has been trained on one. On a CPU processes get more done than threads:
two trainers with a thread each side by side, or `torchrun --standalone --nproc-per-node CORES -m training
generator`, whose processes share every step.
"""
SHARES = {"text": 0.15, "decoder": 0.2, "generator": 0.5, "sharpen": 0.12, "encoder": 0.03}
STUDY = ("judge", "teacher", "add", "dmd2", "ablation")
MUSE = ("muse", "muse-sheets")
Losses = Literal["both", "adversarial", "distillation", "regression"]
TOTAL = {"cpu": 130.0, "cuda": 25.0}
"""Minutes of `all`."""


def run(
    command: str, minutes: float, steps: int | None, device: str, scratch: bool, batch: int | None
) -> None:
    """One trainer."""
    from training import decoder, encoder, generator, listening, sharpen

    trainers: dict[str, Callable[..., object]] = {
        "text": listening.train,
        "decoder": decoder.train,
        "generator": generator.train,
        "sharpen": sharpen.train,
        "encoder": encoder.train,
    }
    trainers[command](minutes, steps, batch, device=device, resume=not scratch)


def study(command: str, steps: int | None, losses: Losses, only: str) -> None:
    """One part of the study of distillation."""
    from training import ablation, add, dmd2, examine, judge, teacher

    given: dict[str, Any] = {} if steps is None else {"steps": steps}
    match command:
        case "judge":
            eye = judge.train(**given)
            flat = judge.Scenes(judge.art((examine.FLAT,)))
            print("its own art", json.dumps(judge.accuracy(eye, judge.Scenes(judge.art()))))
            print("flat art, never seen", json.dumps(judge.accuracy(eye, flat)))
        case "teacher":
            teacher.train(**given)
        case "add":
            add.train(losses, **given)
        case "dmd2":
            dmd2.train(**given)
        case "ablation":
            ablation.run(only)
            print((ablation.OUT / "table.md").read_text())


def own_muse(command: str, device: str, folder: Path | None, out: Path | None) -> None:
    """Train Muse into a folder, or draw with what is in one."""
    from training.muse import export, sheets

    if command == "muse":
        export.train(device, folder=folder or export.FOLDER)
    else:
        print(json.dumps(sheets.run(folder or export.FOLDER, out or sheets.OUT), indent=1))


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = ("lexicon", "spelling")
    judged = ("blend", "export", "evaluate", "all", "examine")
    parser.add_argument("command", choices=["data", *SHARES, *words, *judged, *MUSE, *STUDY])
    parser.add_argument(
        "--minutes", type=float, help="active minutes (default: see above; for `all` their sum)"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's own choice)")
    parser.add_argument(
        "--device", default="auto", help="cpu or cuda for the networks (default: cuda if it is there)"
    )
    parser.add_argument("--batch", type=int, help="batch size (default: the trainer's own)")
    parser.add_argument("--scratch", action="store_true", help="ignore checkpoints and shipped weights")
    parser.add_argument("--force", action="store_true", help="export even if the judge says that it is worse")
    parser.add_argument("--quick", action="store_true", help="judge on a quarter of the pictures")
    parser.add_argument(
        "--folder",
        type=Path,
        help="evaluate: the pipeline's folder (default: the shipped one); muse: its own",
    )
    parser.add_argument("--out", type=Path, help="evaluate, muse-sheets: where figures and sheets go")
    parser.add_argument("--steps", type=int, help="a trainer's steps, in place of minutes")
    parser.add_argument("--losses", choices=get_args(Losses), default="both", help="add: what it learns from")
    parser.add_argument(
        "--only", default="", help="ablation: rows whose name holds one of these, with commas"
    )
    parser.add_argument("--part", choices=("text", "decoder", "generator"), help="blend: whose checkpoint")
    parser.add_argument("--earlier", type=Path, help="blend: another checkpoint of the same part")
    parser.add_argument(
        "--share", type=float, default=0.5, help="blend: 0 is the earlier one, 1 changes nothing"
    )
    args = parser.parse_args()
    if args.command == "blend" and not (args.part and args.earlier and 0 <= args.share <= 1):
        parser.error("blend needs a --part, an --earlier checkpoint, and a --share from 0 to 1")
    if args.command == "all" and args.steps:
        parser.error("--steps: of which trainer? `all` divides --minutes")

    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if "WORLD_SIZE" in os.environ:  # torchrun's
        if args.command not in SHARES:
            parser.error(f"{args.command} is not shared by processes: run it without torchrun")
        torch.distributed.init_process_group("gloo")
    from training import data, export, latents, looks
    from training.paths import SHIPPED, WORK

    if args.command in ("data", "all"):
        data.prepare()
        latents.fit()
        looks.fit()
    if args.command == "lexicon":
        from training import lexicon

        lexicon.make()
    if args.command == "spelling":
        from training import spelling

        spelling.make()
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    whole = TOTAL.get(device, TOTAL["cpu"])
    if args.command in SHARES:
        minutes = args.minutes or whole * SHARES[args.command]
        run(args.command, minutes, args.steps, device, args.scratch, args.batch)
    if args.command == "all":
        for command, share in SHARES.items():
            run(command, (args.minutes or whole) * share, None, device, args.scratch, args.batch)
    if args.command == "blend":
        from training import loop

        loop.blend(WORK / f"{args.part}.pt", args.earlier, args.share)
    if args.command in ("export", "all"):
        export.export(quick=args.quick, force=args.force)
    if args.command in MUSE:
        own_muse(args.command, device, args.folder, args.out)
    if args.command in STUDY:
        study(args.command, args.steps, args.losses, args.only)
    if args.command == "examine":
        from training import examine, judge

        out = args.out or WORK / "examination"
        out.mkdir(parents=True, exist_ok=True)
        said = examine.examine(export.load(args.folder or SHIPPED), judge.load(), out, args.quick)
        (out / "examination.json").write_text(json.dumps(said, indent=1) + "\n")
        text, passed = examine.verdict(said)
        print(json.dumps(said, indent=1), text, sep="\n\n")
        if not passed:
            raise SystemExit("a needed goal is missed")
    if args.command == "evaluate":
        from training import evaluate

        report = evaluate.evaluate(
            export.load(args.folder or SHIPPED), args.out or WORK / "evaluation", args.quick
        )
        print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

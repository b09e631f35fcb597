"""A process with one target in it: JSON commands on stdin, one JSON reply each on stdout.

    {"what": "time", "n": 8, "calls": 5, "stream": 3}    -> {"seconds": [...]}         one per call
    {"what": "repeat", "n": 1, "calls": 5, "stream": 4}  -> {"seconds": [...]}         the same prompts each time
    {"what": "stages", "n": 8, "calls": 5, "stream": 5}  -> {"seconds": {"text": [...], ...}}
    {"what": "recipe", ..., "recipe": [4, 0.0, "euler"]} -> like "time", with other steps, guidance and sampler
    {"what": "roofline", "batches": [1, 8]}              -> see roofline.measure

It first says what it is: {"device", "dtype", "threads", "model", "weights", "sdxl_turbo"}, the last whether it does
SDXL Turbo's very work. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.machine import weights_digest
from benchmarks.options import RANDOM, ModelOptions
from benchmarks.prompts import Prompts
from benchmarks.published import is_sdxl_turbo
from onestroke.models.specs import ModelSpec


def main() -> None:
    start: dict[str, Any] = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    target = targets.make(start["target"], ModelOptions(**start["options"]), start["compile_mode"])
    target.warm_up(start["batches"], Prompts(start["seed"], start["stream"]).take)
    spec = target.spec
    hello = {
        "device": target.device,
        "dtype": target.dtype,
        "threads": target.threads,
        "model": spec.name,
        "weights": weights_of(start["options"]["model"], spec),
        "sdxl_turbo": is_sdxl_turbo(target.unet_config, spec.default_size, spec.default_steps),
    }
    print(json.dumps(hello), file=replies)
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        print(json.dumps(answer(target, start["seed"], command)), file=replies)


def weights_of(model: str, spec: ModelSpec) -> str:
    """A few letters that tell weights from others."""
    if model.startswith(RANDOM):
        return "random"
    return weights_digest(Path(spec.source)) if spec.is_local else spec.revision or "of the hub"


def answer(target: Any, seed: int, command: dict[str, Any]) -> dict[str, Any]:
    if command["what"] == "roofline":
        from benchmarks import roofline

        return roofline.measure(target, command["batches"], Prompts(seed, command["stream"]))
    prompts, n, calls = Prompts(seed, command["stream"]), command["n"], command["calls"]
    match command["what"]:
        case "time":
            return {"seconds": [timed(target, prompts.take(n)) for _ in range(calls)]}
        case "recipe":
            with target.sampled(*command["recipe"]):
                return answer(target, seed, {**command, "what": "time"})
        case "repeat":
            same = prompts.take(n)
            target.draw(same)
            return {"seconds": [timed(target, same) for _ in range(calls)]}
        case "stages":
            found = [target.stages(prompts.take(n)) for _ in range(calls)]
            return {"seconds": {name: [each[name] for each in found] for name in found[0]}}
    raise ValueError(f"unknown command {command['what']!r}")


def timed(target: Any, prompts: list[str]) -> float:
    start = time.perf_counter()
    pictures = target.draw(prompts)
    seconds = time.perf_counter() - start
    assert len(pictures) == len(prompts)
    return seconds


if __name__ == "__main__":
    main()

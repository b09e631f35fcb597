"""The text encoder: CLIP's architecture, small, taught to say what `grammar.parse` says, as a code.

Its input is a byte-pair vocabulary of its own, trained on captions and their beginnings. It says two things. Its
pooled and projected embedding is the code of `codes.encode`. Its hidden states before the last layer, at the last
four positions, are `codes.slots`, one for each thing of a group: diffusers pads a text to its full length, so these
positions are always there. `StableDiffusionXLPipeline` asks for another text encoder beside it: that one is not
trained, and only marks the four positions for the generator's cross-attention.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from training import codes, loop
from training.captions import Captions, write
from training.codes import Target
from training.concepts import COLOUR_NAMES, NAMES, STYLE_NAMES
from training.grammar import parse
from training.optim import Muon, adopt, world
from training.paths import SHIPPED, WORK
from training.phrases import KINDS, LEXICON, STYLED, look_up

CHECKPOINT = WORK / "text.pt"
TOKENIZER = WORK / "tokenizer"
MERGES = 7500
LENGTH = 32
"""Longest prompt in tokens, its two end marks included; the last four positions also hold the slots."""
LAYERS, INNER = 6, 1152
"""Transformer layers, and the width of their MLPs: in `remember`'s, a unit for each thing, colour and place."""
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CLOSE = 0.65
"""When the training begins to read texts at their full length, as the pipeline does."""
SHARPNESS = 14.0
"""Scale from code entries to logits."""


def spelt(captions: int, seed: int) -> Iterator[str]:
    """What the merges are counted in: captions, and words that mean something, so often that many are one token."""
    stream = Captions(seed)
    yield from (stream.caption() for _ in range(captions))
    for word in (*LEXICON, *KINDS, *STYLED):
        yield from [word] * (120 if word in LEXICON else 40)


def train_tokenizer(captions: int = 20_000, seed: int = 1) -> CLIPTokenizer:
    """A CLIP tokenizer with our own merges: all bytes, all bytes at a word's end, and the commonest pairs in
    captions."""
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=512 + MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
        min_frequency=5,
    )
    backend.train_from_iterator(spelt(captions, seed), trainer)
    merges = [tuple(m) for m in json.loads(backend.to_str())["model"]["merges"]][:MERGES]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges), BOS, EOS]
    vocabulary: dict[str, int] = {}
    for token in tokens:
        vocabulary.setdefault(token, len(vocabulary))
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH, pad_token=EOS)


def load_tokenizer() -> CLIPTokenizer:
    """The trained tokenizer: the scratch folder's, else the shipped one if it is as large, else one trained now."""
    if not (TOKENIZER / "tokenizer.json").exists():
        if (SHIPPED / "tokenizer_2" / "tokenizer.json").exists():
            tokenizer = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer_2", model_max_length=LENGTH)
            if len(tokenizer) > MERGES:
                return tokenizer
        train_tokenizer().save_pretrained(TOKENIZER)
    return CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=LENGTH)


def config(
    tokenizer: CLIPTokenizer, width: int, layers: int, heads: int, inner: int | None = None
) -> CLIPTextConfig:
    """A text encoder's configuration for a tokenizer; its MLPs are `inner` wide, or four times `width`."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner or 4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=LENGTH,
        projection_dim=codes.CODE,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def build(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The untrained encoder, about 5.1 M parameters."""
    torch.manual_seed(0)
    return CLIPTextModelWithProjection(
        config(tokenizer, width=codes.WIDTH, layers=LAYERS, heads=6, inner=INNER)
    )


BEGINNING = 0.2
"""How loud the things' patterns are in new embeddings."""


@torch.no_grad()
def prime(model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> None:
    """Start tokens that are words, or begin some, from the patterns of their things, and read these out again, with
    a memory for groups.

    So what has to be learnt is more how words go together than which of a thousand things each is.
    """
    body = model.text_model if hasattr(model, "text_model") else model
    embedding = body.embeddings.token_embedding.weight
    for token, row in tokenizer.get_vocab().items():
        word = token.removesuffix("</w>")
        entry = look_up(word, unfinished=True) if word.isalpha() else ("unknown", 0, 0)
        if entry[0] in ("thing", "mood"):
            embedding[row, : codes.THING] = BEGINNING * codes.PATTERNS[entry[1]]
    projection = model.text_projection.weight
    projection.mul_(0.1)
    projection[: codes.THING] = 0.0
    projection[: codes.THING, : codes.THING] = BEGINNING * torch.eye(codes.THING)
    remember(model)


KEEN, HEARD = 10.0, 0.5
"""How steeply a memory's unit rises, and from which share of the shape that it knows."""
ROUGH = 0.25
"""How loud earlier layers leave that shape; the memory says the rest."""
AT_SLOTS = 6.0
"""How loud the last of the hidden numbers says, from the first layer on, that a position is a slot's, or is not."""


@torch.no_grad()
def remember(model: CLIPTextModelWithProjection) -> None:
    """Start the MLP before the slots are read as their memory: a unit for every thing, colour and place, which
    knows it by the rough shape that earlier layers left at a slot, and adds its exact one.

    Without it an encoder names the right thing and says its pattern a fifth wrong; the generator draws what it is
    told. (It is how a modern Hopfield network retrieves, arXiv 2008.02217, with GELU in place of softmax.)
    """
    body = model.text_model if hasattr(model, "text_model") else model
    layer, positions = body.encoder.layers[-2], body.embeddings.position_embedding.weight
    positions[:, -1], positions[-codes.SLOTS :, -1] = -AT_SLOTS, AT_SLOTS
    things, parts = len(codes.PATTERNS), codes.SLOT - codes.THING
    assert things + parts <= INNER, "the memory needs wider MLPs"
    exact = torch.zeros(things + parts, codes.WIDTH)
    exact[:things, : codes.THING] = codes.PATTERNS
    exact[things:, codes.THING : codes.SLOT] = torch.eye(parts)
    # Rows that score one shape, and as little as possible of all others: see `generator.recognise`.
    rows = torch.linalg.pinv(exact.double()).T
    rows = (rows / (rows * exact).sum(1, keepdim=True)).float()
    empty = torch.zeros(codes.WIDTH)
    empty[-1] = AT_SLOTS
    loud = empty.std(correction=0)  # hardly more with something in the slot
    empty = (empty - empty.mean()) / loud
    units, fc1, fc2 = slice(things + parts), layer.mlp.fc1, layer.mlp.fc2
    fc1.weight[units] = KEEN * loud / ROUGH * rows
    fc1.weight[units, -1] = KEEN / empty[-1]  # at other positions: far below zero
    fc1.bias[units] = -KEEN * HEARD - fc1.weight[units] @ empty
    fc2.weight.zero_()  # what its other units say
    fc2.weight[:, units] = (1 - ROUGH) * exact.T / F.gelu(torch.tensor(KEEN * (1 - HEARD)))


@torch.no_grad()
def build_idle(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The first encoder that the pipeline's format asks for: a mark at each slot's position, zero at all others."""
    torch.manual_seed(0)
    model = CLIPTextModel(config(tokenizer, width=codes.IDLE, layers=1, heads=1))
    embeddings = model.text_model.embeddings if hasattr(model, "text_model") else model.embeddings
    embeddings.token_embedding.weight.zero_()
    embeddings.position_embedding.weight.zero_()
    embeddings.position_embedding.weight[-codes.SLOTS :, : codes.SLOTS] = codes.FLAG * torch.eye(codes.SLOTS)
    return model


def tokens(tokenizer: CLIPTokenizer, texts: list[str], full: bool = False) -> Tensor:
    """(B, n) token ids, padded to the longest or to the full length."""
    padding = "max_length" if full else "longest"
    ids = tokenizer(texts, padding=padding, truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
    return torch.as_tensor(ids)


def class_of(index: int | None, classes: int) -> int:
    """An index as a class, "none" being the last."""
    return classes if index is None else index


IGNORED = -100
"""Cross-entropy's own word for a row without a class."""


def code_loss(made: Tensor, targets: list[Target]) -> Tensor:
    """Cross-entropy per part of the code ("none" wins below one half), and the squared distance from the
    exact code, in which alone a group's things and colours are said."""
    none = made.new_full((len(made), 1), 0.5)
    ends = (
        *(codes.COLOUR_AT, codes.BACKGROUND_AT, codes.LAYOUT_AT, codes.STYLE_AT),
        codes.STYLE_AT + len(STYLE_NAMES),
    )
    concept, exact = made[:, : codes.THING], codes.encode(targets)
    label = torch.tensor([IGNORED if t.group else class_of(t.concept, len(NAMES)) for t in targets])
    entropy = F.cross_entropy(thing_logits(concept), label, reduction="sum") / len(made)
    parts: tuple[list[int | None], ...] = (
        [IGNORED if t.group else t.colour for t in targets],
        [t.background for t in targets],
        [codes.layout(t.group) for t in targets],
        [t.style for t in targets],
    )
    for start, end, said in zip(ends, ends[1:], parts, strict=False):
        label = torch.tensor([class_of(index, end - start) for index in said])
        logits = SHARPNESS * torch.cat([made[:, start:end], none], 1)
        entropy = entropy + F.cross_entropy(logits, label, reduction="sum") / len(made)
    rest = (made - exact)[:, codes.COLOUR_AT :].pow(2).sum(1).mean()
    return entropy + 4 * rest + 2 * distance(concept, exact[:, : codes.THING])


def thing_logits(made: Tensor) -> Tensor:
    """(n, things + 1) logits of (n, THING) patterns; nothing, the last, wins below one half of a thing's own."""
    none = made.new_full((len(made), 1), codes.LOUD)
    return torch.cat([2 * made @ codes.PATTERNS.T, none], 1)


def distance(made: Tensor, exact: Tensor) -> Tensor:
    """How far what was made is from what is exact: squared only when small, or far off it would drown all else."""
    return ((1 + (made - exact).pow(2).sum(-1)).sqrt() - 1).mean()


def slot_loss(made: Tensor, targets: list[Target]) -> Tensor:
    """The same of (B, 4, SLOT) slots: cross-entropy of thing, colour and place; the distance from what is exact."""
    rows = [[*target.group, *[None] * (codes.SLOTS - len(target.group))] for target in targets]
    flat = [placed for row in rows for placed in row]
    thing, colour, place = torch.split(made.flatten(0, 1), [codes.THING, len(COLOUR_NAMES), codes.PLACES], 1)
    none = made.new_full((len(thing), 1), SHARPNESS / 2)
    parts = (
        (thing_logits(thing), [placed and placed.concept for placed in flat]),
        (torch.cat([SHARPNESS * colour, none], 1), [placed and placed.colour for placed in flat]),
        (torch.cat([SHARPNESS * place, none], 1), [placed and placed.place for placed in flat]),
    )
    entropy = made.new_zeros(())
    for logits, said in parts:
        label = torch.tensor([class_of(index, logits.shape[1] - 1) for index in said])
        entropy = entropy + F.cross_entropy(logits, label)
    return 2 * entropy + 2 * distance(made, codes.slots(targets))


def read(model: CLIPTextModelWithProjection, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(B, CODE) pooled codes and (B, 4, SLOT) slots of texts (B, n).

    Texts that are not of full length are read as if the padding between them and the slots were missing: nearly
    the same for the slots, exactly the same for the code, and several times cheaper.
    """
    positions = torch.arange(LENGTH, device=ids.device)
    if ids.shape[1] < LENGTH:
        ids = F.pad(ids, (0, codes.SLOTS), value=model.config.eos_token_id)[:, :LENGTH]
        positions = torch.cat([positions[: ids.shape[1] - codes.SLOTS], positions[-codes.SLOTS :]])
    said = model(ids, position_ids=positions[None], output_hidden_states=True)
    return said.text_embeds.float(), said.hidden_states[-2][:, -codes.SLOTS :, : codes.SLOT].float()


@torch.no_grad()
def understood(
    model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: list[str], full: bool = True
) -> list[Target]:
    """What the encoder takes texts to mean: at full length, as the pipeline reads them, or without the padding."""
    meant: list[Target] = []
    for i in range(0, len(texts), 256):
        ids = tokens(tokenizer, texts[i : i + 256], full).to(model.device)
        meant += codes.decode(*(part.cpu() for part in read(model, ids)))
    return meant


@torch.no_grad()
def accuracy(
    model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: list[str], targets: list[Target]
) -> dict[str, float]:
    """Shares of captions read right: concept, recolouring, background, style, all of it; of those that mean a
    group, the group; and the mean errors of codes and slots."""
    model.eval()
    right: Counter[str] = Counter()
    error = slot_error = 0.0
    for i in range(0, len(texts), 256):
        ids = tokens(tokenizer, texts[i : i + 256], full=True).to(model.device)
        made, slots = (part.cpu() for part in read(model, ids))
        error += float((made - codes.encode(targets[i : i + 256])).pow(2).sum())
        slot_error += float((slots - codes.slots(targets[i : i + 256])).pow(2).sum())
        for seen, true in zip(codes.decode(made, slots), targets[i : i + 256], strict=True):
            right["concept"] += seen.concept == true.concept
            right["colour"] += seen.colour == true.colour
            right["style"] += seen.style == true.style
            right["background"] += seen.background == true.background
            right["group"] += bool(true.group) and seen.group == true.group
            right["all"] += seen == true
    model.train()
    groups = sum(bool(target.group) for target in targets)
    return {
        **{key: right[key] / len(texts) for key in ("concept", "colour", "background", "style", "all")},
        **({"group": right["group"] / groups} if groups else {}),
        "code_error": math.sqrt(error / len(texts)),
        "slot_error": math.sqrt(slot_error / len(texts)),
    }


def load(path: Path | None = None) -> CLIPTextModelWithProjection:
    """The trained encoder (averaged weights)."""
    model = build(load_tokenizer())
    model.load_state_dict(loop.weights(path or CHECKPOINT))
    return model.eval()


def shipped(model: CLIPTextModelWithProjection) -> bool:
    """Load the shipped weights, if they are there and fit."""
    if not (SHIPPED / "text_encoder_2" / "config.json").exists():
        return False
    saved = CLIPTextModelWithProjection.from_pretrained(SHIPPED / "text_encoder_2", dtype=torch.float32)
    return adopt(model, saved)


def missed(model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> list[str]:
    """The words and phrases, each alone, that the encoder does not take for what they mean."""
    # Those alike in length together need little padding.
    words = sorted({**LEXICON, **KINDS}, key=lambda word: (len(word), word))
    meant = understood(model, tokenizer, words, full=False)
    return [word for word, target in zip(words, meant, strict=True) if target != parse(word)]


RECALL = 500
"""Steps after which it is looked anew what is missed."""
TOGETHER = 4
"""Batches that are written at a time and sorted by length, so that little of a batch is padding."""


class Writers:
    """Heaps of captions with their meanings, by number and share of plain groups; for a card, written ahead."""

    def __init__(self, size: int, seed: int, ahead: int) -> None:
        """Heaps of `size`; `ahead` of them are written by other processes, none of them if it is 0."""
        self.size, self.seed = size, seed
        self.pool = ProcessPoolExecutor(ahead, multiprocessing.get_context("spawn")) if ahead else None
        self.ahead, self.ordered = ahead, dict[int, Future[tuple[list[str], list[Target]]]]()

    def heap(self, number: int, plain: float, missed: Sequence[str] = ()) -> tuple[list[str], list[Target]]:
        """The same for the same arguments; those `missed` come more often (written ahead: a little later)."""
        if self.pool is None:
            return write(self.seed, number, self.size, plain, missed)
        for other in range(number, number + self.ahead + 1):
            if other not in self.ordered:
                self.ordered[other] = self.pool.submit(write, self.seed, other, self.size, plain, missed)
        return self.ordered.pop(number).result()

    def close(self) -> None:
        """Send the other processes home."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


class Listener(loop.Fit):
    """`loop.Learner` of the text encoder."""

    def __init__(
        self,
        model: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        writers: Writers,
        rate: float = 1.0,
    ) -> None:
        """`rate` is of the full learning rates."""
        # Slots are small numbers among the states: at a higher rate they drown in noise.
        optimiser = Muon(
            model.named_parameters(),
            muon_rate=1.5e-3 * rate,
            adam_rate=1e-3 * rate,
            weight_decay=0.02,
            exclude=("embedding",),
        )
        super().__init__(model, optimiser)
        self.model, self.tokenizer, self.writers = model, tokenizer, writers
        self.missed: list[str] = []
        self.heap: tuple[int, list[list[tuple[str, Target]]]] = (-1, [])

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`. Plain groups come first, full length last; what is missed comes more often."""
        number, turn = divmod(index, TOGETHER)
        if index and index % RECALL == 0:
            self.missed = missed(self.model, self.tokenizer)
        if self.heap[0] != number:
            begun = fraction * number * TOGETHER / max(index, 1)  # whichever step asks, after a pause too
            written = self.writers.heap(number, 0.5 * max(0.0, 1 - 2 * begun), self.missed)
            pairs = sorted(zip(*written, strict=True), key=lambda pair: len(pair[0]))
            share = len(pairs) // TOGETHER
            batches = [pairs[i * share : (i + 1) * share] for i in range(TOGETHER)]
            np.random.default_rng([number]).shuffle(batches)
            self.heap = number, batches
        texts, meant = zip(*self.heap[1][turn], strict=True)
        ids = tokens(self.tokenizer, list(texts), full=fraction > CLOSE).to(self.model.device)
        with torch.autocast(self.model.device.type, torch.bfloat16):
            made, slots = read(self.model, ids)
        loss = code_loss(made.cpu(), list(meant)) + slot_loss(slots.cpu(), list(meant))
        self.learn(loss, index, fraction)
        return {"loss": loss.item()}

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Learner`."""
        return {**super().state_dict(), "missed": self.missed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `loop.Learner`."""
        super().load_state_dict(state)
        self.missed = state["missed"]


def train(
    minutes: float = 20,
    steps: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    path: Path = CHECKPOINT,
    resume: bool = True,
    device: str = "cpu",
) -> dict[str, float]:
    """Train for `steps`, or as many as `minutes` hold (`loop.budget`); how held-out captions are read then.

    Goes on from the checkpoint at `path`; without one, from the shipped weights at a third of the learning rate. A
    `batch` is 192 captions, on a card 1024.
    """
    torch.manual_seed(seed)
    tokenizer = load_tokenizer()
    model = build(tokenizer).train()
    model.set_attn_implementation("eager")  # the fused kernel's backward is slow for short texts on a CPU
    rate = 0.35 if resume and shipped(model) else 1.0
    if rate == 1:
        prime(model, tokenizer)
    ahead = 0 if device == "cpu" else max(1, (os.cpu_count() or 1) - 1)
    rank, size = world()
    writers = Writers(TOGETHER * (batch or (192 if device == "cpu" else 1024)), seed * size + rank, ahead)
    listener = Listener(model.to(device), tokenizer, writers, rate)
    try:
        loop.train(listener, path, steps, minutes, seed, resume)
    finally:
        writers.close()
    found = accuracy(load(path).to(device), tokenizer, *Captions(7).batch(1000))
    tqdm.write("text held out: " + " ".join(f"{key} {value:.4f}" for key, value in found.items()))
    return found
